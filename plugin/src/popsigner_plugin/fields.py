"""What callers write into a request's JSON, read strictly.

Values may also be text ("true", "2"): `bao write` sends every value so.
"""

import binascii
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, TypeVar

from Crypto.Hash import keccak

from popsigner_plugin.curve import DIGEST_BYTES, Format
from popsigner_plugin.errors import BadInput

MAX_MESSAGE_BYTES: Final = 2**20

_Choice = TypeVar("_Choice")
_FORMATS: Final = {form.name.lower(): form for form in Format}
_BOOLEANS: Final = {"true": True, "false": False}


class Fields:
    """The fields of one request. Every reader raises BadInput with a sentence that names the field."""

    def __init__(self, data: Mapping[str, Any], *, known: frozenset[str]) -> None:
        unknown = sorted(set(data) - known)
        if unknown:
            takes = ", ".join(sorted(known)) or "no field"
            raise BadInput(f"Unknown field {unknown[0]!r}; this path takes {takes}.")
        self._data = data

    def flag(self, name: str) -> bool | None:
        """A boolean, None where it is not given."""
        value = self._data.get(name)
        if isinstance(value, str):
            value = _BOOLEANS.get(value, value)
        if value is None or isinstance(value, bool):
            return value
        raise BadInput(f"`{name}` must be true or false.")

    def number(self, name: str) -> int | None:
        """A whole number of 0 to 2^31-1, None where it is not given."""
        value = self._data.get(name)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 11:
            value = int(value)
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31:
            return value
        raise BadInput(f"`{name}` must be a whole number of 0 to {2**31 - 1}.")

    def numbers(self, name: str) -> list[int]:
        """Whole numbers from 1, each once, ascending: a list, or text with commas. Empty where it is not given."""
        value = self._data.get(name)
        if value is None:
            return []
        if isinstance(value, str):
            value = value.split(",")
        if isinstance(value, list) and value:
            found = {Fields({name: one}, known=frozenset({name})).number(name) or 0 for one in value}
            if min(found) > 0:
                return sorted(found)
        raise BadInput(f"`{name}` must be one or more whole numbers from 1.")

    def text(self, name: str) -> str:
        """A string, "" where it is not given."""
        value = self._data.get(name, "")
        if isinstance(value, str):
            return value
        raise BadInput(f"`{name}` must be a string.")

    def binary(self, name: str) -> bytes:
        """Bytes from standard base64 with padding; required."""
        value = self._data.get(name)
        if not isinstance(value, str):
            raise BadInput(f"`{name}` is required: base64.")
        try:
            return binascii.a2b_base64(value, strict_mode=True)
        except ValueError:
            raise BadInput(f"`{name}` is not valid base64 (standard alphabet, with padding).") from None

    def form(self) -> Format:
        """`format`: compact where it is not given."""
        return self._one_of("format", _FORMATS, "compact")

    def digest(self) -> bytes:
        """The 32 bytes to sign: `input` itself if `prehashed`, else its `hash` (sha256 where it is not given)."""
        message = self.binary("input")
        hashed = self._one_of("hash", _HASHES, "sha256")
        if self.flag("prehashed"):
            if len(message) != DIGEST_BYTES:
                raise BadInput(f"A prehashed `input` is a digest of {DIGEST_BYTES} bytes, this one has {len(message)}.")
            return message
        if len(message) > MAX_MESSAGE_BYTES:
            raise BadInput(f"`input` may have {MAX_MESSAGE_BYTES} bytes, this one has {len(message)}.")
        return hashed(message)

    def _one_of(self, name: str, choices: Mapping[str, _Choice], default: str) -> _Choice:
        value = self.text(name) or default
        try:
            return choices[value]
        except KeyError:
            raise BadInput(f"`{name}` must be {' or '.join(choices)}.") from None


def _sha256(message: bytes) -> bytes:
    return sha256(message).digest()


def _keccak256(message: bytes) -> bytes:
    return keccak.new(digest_bits=256, data=message).digest()


_HASHES: Final = {"sha256": _sha256, "keccak256": _keccak256}
