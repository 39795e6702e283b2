"""Recipients of recovery copies: one spelling of what age-keygen prints, and nothing that protects nothing."""

import pyrage  # type: ignore[import-untyped]  # publishes no types
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from popsigner_server.domain.bech32 import Variant, decode, encode, to_groups
from popsigner_server.domain.recipients import check_recipient

PRIME = 2**255 - 19
# The points whose order divides 8 (RFC 7748, section 7; curve25519's own page lists them), and the same numbers written
# once more above the prime, and with the highest bit, which X25519 ignores.
ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
LOW = [0, 1, *ORDER_8, PRIME - 1, PRIME, PRIME + 1]


def recipient(point: bytes, *, prefix: str = "age", variant: Variant = Variant.BECH32) -> str:
    return encode(prefix, to_groups(point), variant)


def made() -> str:
    return str(pyrage.x25519.Identity.generate().to_public())


def test_what_age_makes_is_taken() -> None:
    for _ in range(50):
        check_recipient(made())


@pytest.mark.parametrize("number", LOW)
@pytest.mark.parametrize("highest_bit", [0, 1 << 255])
def test_a_point_of_low_order_is_refused(number: int, highest_bit: int) -> None:
    text = recipient((number | highest_bit).to_bytes(32, "little"))
    with pytest.raises(ValueError, match="low order"):
        check_recipient(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "age1",
        "age1" + "q" * 58,
        "-----BEGIN PUBLIC KEY-----",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ5",
        recipient(bytes(range(31))),
        recipient(bytes(range(33))),
        recipient(bytes(range(32)), prefix="age1tag"),
        recipient(bytes(range(32)), prefix="celestia"),
        recipient(bytes(range(32)), variant=Variant.BECH32M),
        recipient(bytes(range(32))).upper(),
        recipient(bytes(range(32))) + "\n",
        " " + recipient(bytes(range(32))),
        recipient(bytes(range(32)), prefix="age-secret-key-"),
        "age1" + "\u212a" * 58,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be an age X25519 recipient"):
        check_recipient(text)


@settings(deadline=None)
@given(st.integers(4, 61), st.sampled_from("qpzry9x8gf2tvdw0s3jn54khce6mua7l"))
def test_a_wrong_character_is_refused(place: int, character: str) -> None:
    text = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"
    check_recipient(text)
    changed = text[:place] + character + text[place + 1 :]
    if changed != text:
        with pytest.raises(ValueError, match="must be"):
            check_recipient(changed)


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=32))
def test_whatever_is_taken_age_takes_too(point: bytes) -> None:
    assume(int.from_bytes(point, "little") % 2**255 not in LOW)
    text = recipient(point)
    check_recipient(text)
    assert str(pyrage.x25519.Recipient.from_str(text)) == text
    assert decode(text)[0] == "age"
