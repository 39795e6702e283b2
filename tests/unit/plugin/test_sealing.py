"""Private keys on their way out: read by others' code, and sealed to nobody who cannot keep them."""

import json
import secrets

import pytest
from Crypto.PublicKey import ECC, RSA

from popsigner_plugin.curve import SigningKey
from popsigner_plugin.errors import BadInput
from popsigner_plugin.keys import Version
from popsigner_plugin.sealing import age_recipient, recipient_of
from tests.unit.plugin.outside import AgeIdentity, bech32, unwrapped

SCALAR = bytes(range(1, 33))
P = 2**255 - 19


def version() -> Version:
    return Version(number=3, signer=SigningKey.of(SCALAR), created_at_ms=0)


def test_an_age_file_opens_with_its_identity_and_holds_canonical_json() -> None:
    identity = AgeIdentity.made()
    sealed = recipient_of(identity.recipient)
    assert (sealed.wrapping, sealed.text) == ("age", identity.recipient)
    payload = identity.read(sealed.seal("some-key", version()))
    document = {
        "curve": "secp256k1",
        "name": "some-key",
        "private_key": SCALAR.hex(),
        "public_key": SigningKey.of(SCALAR).public_key.hex(),
        "version": 3,
    }
    assert payload.decode() == json.dumps(document, sort_keys=True, separators=(",", ":"))


def test_an_age_file_opens_with_no_other_identity_and_not_when_it_was_changed() -> None:
    identity = AgeIdentity.made()
    file = age_recipient(identity.recipient).seal("k", version())
    with pytest.raises(ValueError, match="MAC check failed"):
        AgeIdentity.made().read(file)
    with pytest.raises(ValueError, match="MAC check failed"):
        identity.read(file[:-1] + bytes((file[-1] ^ 1,)))


@pytest.mark.parametrize("bits", [3072, 4096])
def test_an_rsa_recipient_gets_the_bare_scalar_in_the_form_of_imports(bits: int) -> None:
    key = RSA.generate(bits)
    sealed = recipient_of(key.public_key().export_key().decode())
    assert sealed.wrapping == "RSA-OAEP-SHA256+AES-KWP"
    assert unwrapped(sealed.seal("k", version()), key) == SCALAR


def test_nothing_is_sealed_the_same_way_twice() -> None:
    seal = age_recipient(AgeIdentity.made().recipient).seal
    assert seal("k", version()) != seal("k", version())


def test_the_key_itself_is_not_overwritten_by_its_sealing() -> None:
    one = version()
    age_recipient(AgeIdentity.made().recipient).seal("k", one)
    recipient_of(RSA.generate(3072).public_key().export_key().decode()).seal("k", one)
    assert one.signer.scalar() == SCALAR


def test_an_age_recipient_has_one_spelling() -> None:
    recipient = AgeIdentity.made().recipient
    assert age_recipient(recipient.upper()).text == recipient


# The points whose multiples are all zero or of order 2, 4 or 8, also in the spellings above the prime.
@pytest.mark.parametrize(
    "point",
    [
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        P - 1,
        P,
        P + 1,
    ],
)
def test_a_recipient_that_protects_nothing_is_refused(point: int) -> None:
    with pytest.raises(BadInput, match="RECIPIENT_INVALID: The recipient is a point of low order"):
        age_recipient(bech32("age", point.to_bytes(32, "little")))


def test_every_sound_recipient_is_taken() -> None:
    for _ in range(200):
        text = bech32("age", secrets.token_bytes(32))
        assert age_recipient(text).text == text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no age X25519 recipient"),
        ("age1", "no age X25519 recipient"),
        (bech32("age", bytes(31)), "no age X25519 recipient"),
        (bech32("age", b"\x01" * 33), "no age X25519 recipient"),
        (bech32("celestia", b"\x09" * 32), "no age X25519 recipient"),
        ("AGE-SECRET-KEY-1" + "Q" * 58, "no age X25519 recipient"),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL", "no age X25519 recipient"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no public key in PEM"),
        ("-----BEGIN ", "no public key in PEM"),
        ("-----BEGIN \N{SNOWMAN}", "no public key in PEM"),
    ],
)
def test_what_is_no_recipient_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence) as refused:
        recipient_of(text)
    assert refused.value.code == "RECIPIENT_INVALID"


def test_keys_in_pem_that_are_no_rsa_key_or_a_weak_one_are_refused() -> None:
    refused = {
        str(ECC.generate(curve="P-256").public_key().export_key(format="PEM")): "must be an RSA public key",
        RSA.generate(2048).public_key().export_key().decode(): "3072 to 8192 bits",
        RSA.generate(3072, e=3).public_key().export_key().decode(): "exponent of 65537 up",
        RSA.generate(3072).export_key(pkcs=8).decode(): "no public key in PEM",
    }
    for text, sentence in refused.items():
        with pytest.raises(BadInput, match=f"RECIPIENT_INVALID: .*{sentence}"):
            recipient_of(text)
