"""Protocol Buffers' wire format, at its edges."""

import pytest

from popsigner.keyfiles import DamagedFile, wire


@pytest.mark.parametrize(
    ("encoded", "number"), [(b"\x00", 0), (b"\x7f", 127), (b"\x80\x01", 128), (b"\xff" * 9 + b"\x01", (1 << 64) - 1)]
)
def test_numbers_of_up_to_64_bits(encoded: bytes, number: int) -> None:
    assert wire.varint(memoryview(b"." + encoded + b"."), 1) == (number, 1 + len(encoded))
    assert wire.written_varint(number) == encoded


@pytest.mark.parametrize("encoded", [b"", b"\x80", b"\xff" * 9 + b"\x02", b"\xff" * 10 + b"\x01"])
def test_longer_and_shorter_numbers_are_damage(encoded: bytes) -> None:
    with pytest.raises(DamagedFile):
        wire.varint(memoryview(encoded), 0)


def test_fields_that_are_not_asked_for_are_passed_over() -> None:
    # 1: varint, 2: 64 bits, 3: bytes, 4: 32 bits, 15: bytes
    message = b"\x08\x96\x01" + b"\x11" + bytes(8) + b"\x1a\x02hi" + b"\x25" + bytes(4) + b"\x7a\x00"
    assert [(number, bytes(value)) for number, value in wire.fields(memoryview(message))] == [(3, b"hi"), (15, b"")]


@pytest.mark.parametrize("message", [b"\x1a\x03hi", b"\x11" + bytes(7), b"\x02\x00", b"\x0b", b"\x0e", b"\x1a"])
def test_fields_that_are_cut_off_or_unknown_are_damage(message: bytes) -> None:
    with pytest.raises(DamagedFile):
        list(wire.fields(memoryview(message)))
