"""Bare digits."""

import secrets

import pytest

from popsigner.keyfiles import DamagedFile, InvalidPrivateKey, NotThisFormat, Secret, rawhex


def test_a_hundred_keys_there_and_back() -> None:
    for _ in range(100):
        key = secrets.token_bytes(32)
        with Secret(bytearray(key)) as secret:
            content = rawhex.write(secret)
        assert content == key.hex().encode() + b"\n"
        with rawhex.read(content) as again:
            assert again.scalar == key


@pytest.mark.parametrize("form", ["{}", "0x{}", "0X{}\n", " \t{}\r\n", "\n0x{}"])
def test_the_forms_in_which_people_keep_them(form: str) -> None:
    key = secrets.token_bytes(32)
    for digits in (key.hex(), key.hex().upper()):
        with rawhex.read(form.format(digits).encode()) as secret:
            assert secret.scalar == key


@pytest.mark.parametrize("count", [2, 62, 63, 65, 66, 128])
def test_another_number_of_digits_is_damage(count: int) -> None:
    with pytest.raises(DamagedFile, match=f"this has {count}$"):
        rawhex.read(b"1" * count)


@pytest.mark.parametrize("content", [b"", b"0x", b" \n", b"g" * 64, b"1" * 32 + b"\n" + b"1" * 32, b"0x0x" + b"1" * 62])
def test_other_content_is_another_format(content: bytes) -> None:
    with pytest.raises(NotThisFormat):
        rawhex.read(content)


def test_zero_is_no_private_key() -> None:
    with pytest.raises(InvalidPrivateKey):
        rawhex.read(b"0" * 64)
