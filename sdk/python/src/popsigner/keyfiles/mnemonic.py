"""BIP-39 mnemonics, reading only, and the private keys that BIP-32 derives from them along a BIP-44 path.

A mnemonic makes a private key and cannot be made of one: a key that POPSigner holds leaves in another format.
"""

import hashlib
import hmac
import re
import unicodedata
from functools import cache
from importlib.resources import files
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from .errors import InvalidMnemonic, InvalidPrivateKey
from .secret import ORDER, SCALAR_BYTES, Secret, overwrite

# BIP-44 with the coin types of SLIP-44: 118 is Cosmos (Celestia's too), 60 is Ethereum.
COSMOS_PATH: Final = "m/44'/118'/0'/0/0"
ETHEREUM_PATH: Final = "m/44'/60'/0'/0/0"
LENGTHS: Final = (12, 15, 18, 21, 24)
_BITS_A_WORD: Final = 11
_ITERATIONS: Final = 2048
_HARDENED: Final = 1 << 31
_MAX_DEPTH: Final = 10


def looks_like(content: bytes | bytearray) -> bool:
    """Whether the content is as many words as a mnemonic has, whatever words they are."""
    words = _words(content)
    try:
        return len(words) in LENGTHS and all(word.isalpha() for word in words)
    finally:
        overwrite(*words)


def read(content: bytes | bytearray, *, passphrase: str = "", path: str = COSMOS_PATH) -> Secret:
    """The private key that a mnemonic (English words with white space between them) has along a path.

    passphrase: BIP-39's, which is a part of the key: another one is another key, and none is wrong. It is brought to
    Unicode's form NFKD, as BIP-39 asks. Raises InvalidMnemonic.
    """
    steps = path_steps(path)
    words = _words(content)
    sentence = bytearray(b" ").join(words)
    try:
        _check(words)
        seed = bytearray(64)
        salt = unicodedata.normalize("NFKD", "mnemonic" + passphrase).encode()
        PBKDF2HMAC(hashes.SHA512(), len(seed), salt, _ITERATIONS).derive_into(sentence, seed)
    finally:
        overwrite(sentence, *words)
    return _derived(seed, steps)


def path_steps(path: str) -> tuple[int, ...]:
    """The child numbers of a path such as m/44'/118'/0'/0/0; h may stand for the apostrophe. Raises InvalidMnemonic."""
    if re.fullmatch(r"m(/\d{1,10}['h]?)+", path, re.ASCII):
        steps = tuple(int(step.rstrip("'h")) for step in path.split("/")[1:])
        hardened = [step.endswith(("'", "h")) for step in path.split("/")[1:]]
        if len(steps) <= _MAX_DEPTH and max(steps) < _HARDENED:
            return tuple(step + _HARDENED * mark for step, mark in zip(steps, hardened, strict=True))
    raise InvalidMnemonic(f"the HD path is not of the form {COSMOS_PATH}, with at most {_MAX_DEPTH} numbers below 2^31")


@cache
def _places() -> dict[bytes, int]:
    """BIP-39's English words and their numbers, 0 to 2047."""
    listed = files(__package__).joinpath("english.txt").read_bytes().split()
    return {word: number for number, word in enumerate(listed)}


def _words(content: bytes | bytearray) -> list[bytearray]:
    # The list has lower case alone, so a word that was written with a capital letter means the same.
    copy = bytearray(content)
    lowered = copy.lower()
    try:
        return lowered.split()
    finally:
        overwrite(copy, lowered)


def _check(words: list[bytearray]) -> None:
    if len(words) not in LENGTHS:
        raise InvalidMnemonic(f"a mnemonic has 12, 15, 18, 21 or 24 words; this has {len(words)}")
    number = 0
    for position, word in enumerate(words, start=1):
        key = bytes(word)
        found = _places().get(key)
        overwrite(key)
        if found is None:
            raise InvalidMnemonic(f"word {position} of {len(words)} is not in the English list of BIP-39")
        number = number << _BITS_A_WORD | found
    # One bit of checksum for 32 bits of entropy.
    checked = len(words) * _BITS_A_WORD // 33
    entropy = bytearray((number >> checked).to_bytes(checked * 4, "big"))
    stated = number & ((1 << checked) - 1)
    computed = hashlib.sha256(entropy).digest()[0] >> 8 - checked
    overwrite(entropy)
    if stated != computed:
        raise InvalidMnemonic(
            "each word is known and their checksum is wrong: one is another word, or two changed places"
        )


def _derived(seed: bytearray, steps: tuple[int, ...]) -> Secret:
    """BIP-32's master key and its private children: the left half is the scalar, the right one the chain code."""
    state = hmac.digest(b"Bitcoin seed", seed, "sha512")
    overwrite(seed)
    secret = _secret(bytearray(memoryview(state)[:SCALAR_BYTES]))
    for step in steps:
        parent, chain = secret, state[SCALAR_BYTES:]
        overwrite(state)
        state, secret = _child(parent, chain, step)
        overwrite(chain)
    overwrite(state)
    return secret


def _child(parent: Secret, chain: bytes, step: int) -> tuple[bytes, Secret]:
    head = b"\0" + parent.scalar if step >= _HARDENED else parent.facts.public_key
    data = bytearray(head)
    data += step.to_bytes(4, "big")
    state = hmac.digest(chain, data, "sha512")
    tweak = int.from_bytes(memoryview(state)[:SCALAR_BYTES], "big")
    number = (tweak + int.from_bytes(parent.scalar, "big")) % ORDER
    if step >= _HARDENED:
        overwrite(head)
    overwrite(data)
    parent.wipe()
    # Of 2^127 paths one has such a number; BIP-32 says to take the next, which only the user can.
    child = (number if tweak < ORDER else 0).to_bytes(SCALAR_BYTES, "big")
    try:
        return state, _secret(bytearray(child))
    finally:
        overwrite(child)


def _secret(scalar: bytearray) -> Secret:
    try:
        return Secret(scalar)
    except InvalidPrivateKey:
        raise InvalidMnemonic("this path has no private key; BIP-32 says to take the next number") from None
