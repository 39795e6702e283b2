"""Opening what was sealed to an age recipient (age-encryption.org/v1, C2SP): recovery copies, exports and bundles."""

from typing import Final

import pyrage  # type: ignore[import-untyped]  # publishes no types

from .errors import DamagedFile, NotThisFormat, UnsupportedKey, WrongPassphrase
from .secret import overwrite

_INTRODUCTION: Final = b"age-encryption.org/v1\n"
_ARMOR: Final = b"-----BEGIN AGE ENCRYPTED FILE-----"
_IDENTITY: Final = "AGE-SECRET-KEY-1"
_OTHERS: Final = {
    "AGE-SECRET-KEY-PQ-": "the identity is a post-quantum one; give an X25519 identity (AGE-SECRET-KEY-1...)",
    "AGE-PLUGIN-": "the identity is of an age plugin; give an X25519 identity (AGE-SECRET-KEY-1...)",
    "-----BEGIN OPENSSH": "this is an SSH key; give an X25519 identity (AGE-SECRET-KEY-1...)",
    "age-encryption.org/": "the identity file is encrypted itself; open it first: age -d FILE",
    _ARMOR.decode(): "the identity file is encrypted itself; open it first: age -d FILE",
    "age1": "this is a recipient, with which files are sealed; give the identity (AGE-SECRET-KEY-1...) to open them",
}


def looks_like(content: bytes | bytearray) -> bool:
    """Whether the content is an age file, binary or armored."""
    return content.startswith(_INTRODUCTION) or content.lstrip().startswith(_ARMOR)


def open_age(identity: bytes | bytearray, sealed: bytes | bytearray) -> bytearray:
    """What is sealed; the caller overwrites it. The whole of it is in memory.

    identity: the content of a file as `age-keygen` writes it: X25519 identities, one a line, and comments with #.
    Raises NotThisFormat, UnsupportedKey (another kind of identity), WrongPassphrase (sealed to others, or changed),
    DamagedFile.
    """
    if not looks_like(sealed):
        raise NotThisFormat("this is not a file that age has sealed")
    identities = _identities(identity)
    try:
        opened: bytes = pyrage.decrypt(bytes(sealed), identities)
    except pyrage.DecryptError as error:
        if "No matching keys" in str(error):
            raise WrongPassphrase("the file is sealed to another recipient than that of this identity") from None
        raise DamagedFile("the file that age has sealed is cut off or was changed") from None
    try:
        return bytearray(opened)
    finally:
        overwrite(opened)


def recipients(identity: bytes | bytearray) -> tuple[str, ...]:
    """The recipients (`age1...`) of the identities in the content of such a file. Raises NotThisFormat, UnsupportedKey,
    DamagedFile."""
    return tuple([str(each.to_public()) for each in _identities(identity)])


def _identities(content: bytes | bytearray) -> list[pyrage.x25519.Identity]:
    found = []
    for number, line in enumerate(content.decode(errors="replace").splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        for beginning, sentence in _OTHERS.items():
            if text.startswith(beginning):
                raise UnsupportedKey(sentence)
        try:
            found.append(pyrage.x25519.Identity.from_str(text))
        except pyrage.IdentityError:
            raise DamagedFile(f"line {number} of the identity file is no X25519 identity ({_IDENTITY}...)") from None
    if not found:
        raise NotThisFormat(f"the identity file holds no identity ({_IDENTITY}...)")
    return found
