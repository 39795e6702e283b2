"""Our age files are age's: other implementations open them, byte for byte they are what the format says."""

import base64
import os
import re

import pyrage  # type: ignore[import-untyped]  # publishes no types
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from popsigner_plugin import age
from popsigner_plugin.age import MAX_DOCUMENT, AgeRecipient
from popsigner_plugin.bech32 import payload
from tests.unit.plugin.outside import AgeIdentity, bech32, bech32_of

IDENTITY = pyrage.x25519.Identity.generate()
RECIPIENT = AgeRecipient.of(str(IDENTITY.to_public()))
HEADER = re.compile(
    rb"age-encryption\.org/v1\n-> X25519 ([A-Za-z0-9+/]{43})\n([A-Za-z0-9+/]{43})\n--- ([A-Za-z0-9+/]{43})\n"
)
BECH32M = 0x2BC830A3


@given(document=st.binary(min_size=1, max_size=600))
@example(document=bytes(1))
@example(document=bytes(range(256)) * 256)
@example(document=os.urandom(MAX_DOCUMENT - 1))
def test_another_implementation_reads_what_was_written(document: bytes) -> None:
    assert pyrage.decrypt(RECIPIENT.file(bytearray(document)), [IDENTITY]) == document


def test_a_file_is_byte_for_byte_what_the_format_says() -> None:
    identity, document = AgeIdentity.made(), b"some document"
    recipient = AgeRecipient.of(identity.recipient)
    assert (recipient.text, recipient.point) == (identity.recipient, identity.point)
    file = recipient.file(bytearray(document))
    header = HEADER.match(file)
    assert header is not None
    # No padding, 32 bytes each, and the four bits that are left over are zero.
    for part in header.groups():
        read = base64.b64decode(part + b"=")
        assert len(read) == 32
        assert base64.b64encode(read).rstrip(b"=") == part
    assert len(file) == header.end() + 16 + len(document) + 16
    assert identity.read(file) == document


def test_every_file_has_its_own_keys_and_nonce() -> None:
    files = [RECIPIENT.file(bytearray(b"x")) for _ in range(8)]
    headers = [HEADER.match(file) for file in files]
    parts = {part for header in headers if header for part in header.groups()}
    assert len(parts) == 24
    assert len({file[header.end() :] for file, header in zip(files, headers, strict=True) if header}) == 8


def test_a_changed_byte_anywhere_is_noticed() -> None:
    identity = AgeIdentity.made()
    file = AgeRecipient.of(identity.recipient).file(bytearray(b"x"))
    header = HEADER.match(file)
    assert header is not None
    for place in (header.start(1), header.start(2), header.end(), len(file) - 17, len(file) - 1):
        changed = bytearray(file)
        changed[place] = ord("A") if changed[place] != ord("A") else ord("B")
        with pytest.raises(ValueError, match="MAC"):
            identity.read(bytes(changed))


def test_a_document_is_neither_empty_nor_longer_than_a_chunk_and_is_left_as_it_was() -> None:
    for wrong in (0, MAX_DOCUMENT + 1):
        with pytest.raises(ValueError, match="1 to 65536 bytes"):
            RECIPIENT.file(bytearray(wrong))
    document = bytearray(b"kept")
    RECIPIENT.file(document)
    assert document == b"kept"


def test_every_secret_on_the_way_is_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bytes] = []
    derived, shared_with, urandom = age._derived, AgeRecipient._shared_with, os.urandom

    def kept(secret: bytes) -> bytes:
        made.append(secret)
        return secret

    monkeypatch.setattr(age, "_derived", lambda secret, **how: kept(derived(secret, **how)))
    monkeypatch.setattr(AgeRecipient, "_shared_with", lambda self, private: kept(shared_with(self, private)))
    monkeypatch.setattr(os, "urandom", lambda count: kept(urandom(count)))
    RECIPIENT.file(bytearray(b"x"))
    # The file key, the shared secret, and the keys of payload, body and header; the payload's nonce is public.
    assert sorted(len(secret) for secret in made) == [16, 16, 32, 32, 32, 32]
    assert [len(secret) for secret in made if any(secret)] == [16]


def accepted_by_pyrage(text: str) -> str | None:
    try:
        return str(pyrage.x25519.Recipient.from_str(text))
    except pyrage.RecipientError:
        return None


def accepted(text: str) -> str | None:
    try:
        return AgeRecipient.of(text).text
    except age.LowOrderPoint:
        return text.lower()
    except ValueError:
        return None


@st.composite
def nearly_recipients(draw: st.DrawFn) -> str:
    """A recipient's text with something changed, or nothing."""
    groups = draw(st.lists(st.integers(0, 31), min_size=50, max_size=54) | st.lists(st.integers(0, 31), max_size=3))
    if draw(st.booleans()):
        text = bech32("age", draw(st.binary(min_size=31, max_size=33)))
    else:
        text = bech32_of(groups, draw(st.sampled_from(["age", "Age", "ag", "", "age1"])))
    place = draw(st.integers(0, len(text)))
    return draw(
        st.sampled_from(
            [
                text,
                text.upper(),
                text[:place].upper() + text[place:],
                text[:place] + draw(st.characters(max_codepoint=0x2200)) + text[place + 1 :],
                text[:place] + text[place + 1 :],
                text[:place] + "q" + text[place:],
                text + draw(st.sampled_from(" \n\0")),
            ]
        )
    )


@given(text=nearly_recipients() | st.text(max_size=70))
@example(text="")
@example(text="1")
@example(text="age1")
@example(text="\N{KELVIN SIGN}")
@example(text=bech32("age", bytes(32)))
@example(text=bech32("age", bytes(32)).upper())
@example(text=bech32("age", b"\xff" * 32))
@example(text=bech32_of([31] * 52, "age"))
@example(text=bech32_of([0] * 51 + [1], "age"))
@example(text=bech32_of([0] * 53, "age"))
def test_we_take_the_recipients_that_age_takes_and_no_others(text: str) -> None:
    read = accepted_by_pyrage(text)
    # It also takes texts whose last bits are not zero, and spells them otherwise itself: a recipient has one spelling.
    assert accepted(text) == (read if read == text.lower() else None)


def test_a_checksum_of_bech32m_is_refused() -> None:
    groups = [1] * 51 + [16]
    assert accepted(bech32_of(groups, "age")) is not None
    assert accepted(bech32_of(groups, "age", constant=BECH32M)) is None


@pytest.mark.parametrize(
    "text",
    [
        "A12UEL5L",
        "a12uel5l",
        "an83characterlonghumanreadablepartthatcontainsthenumber1andtheexcludedcharactersbio1tt5tgs",
        "abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw",
        "split1checkupstagehandshakeupstreamerranterredcaperred2y9e3w",
        "?1ezyfcl",
    ],
)
def test_bech32_reads_the_published_texts(text: str) -> None:
    prefix = text.lower().rpartition("1")[0]
    assert bech32(prefix, payload(prefix, text)) == text.lower()


@pytest.mark.parametrize(
    "text",
    [
        "an84characterslonghumanreadablepartthatcontainsthenumber1andtheexcludedcharactersbio1569pvx",
        "x1b4n0q5v",
        "li1dgmt3",
        "de1lg7wt\xff",
        "A1G7SGD8",
        "a12UEL5L",
    ],
)
def test_bech32_refuses_the_published_wrong_texts(text: str) -> None:
    with pytest.raises(ValueError, match=r"checksum|prefix|characters|case"):
        payload(text.lower().rpartition("1")[0], text)
