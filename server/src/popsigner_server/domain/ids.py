"""Ids: UUIDv7 (RFC 9562), shown as a prefix and 26 characters of Crockford's base32.

E.g. `key_01JD3ZQ5RX8V0Q6K1M2N3P4R5S`. Both forms sort by the time of creation.
"""

import os
import re
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from itertools import product
from uuid import UUID

# Crockford's base32 has no I, L, O and U.
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
# 128 bits are 25 characters of five bits and a first one of three.
_TEXT = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
# To the digits that int(…, 32) reads.
_TO_DIGITS = str.maketrans(_ALPHABET, "0123456789abcdefghijklmnopqrstuv")
# Two characters a lookup: 13 of them write an id.
_PAIRS = tuple(first + second for first, second in product(_ALPHABET, repeat=2))

_VERSION_AND_VARIANT = (7 << 76) | (0b10 << 62)
_COUNTER_LIMIT = 1 << 42


class Prefix(StrEnum):
    """What an id names."""

    KEY = "key"
    ORGANIZATION = "org"
    NAMESPACE = "ns"
    USER = "user"
    API_KEY = "ak"
    LOG = "log"
    WEBHOOK = "wh"
    INVITATION = "inv"
    SESSION = "sess"
    IDENTITY_PROVIDER = "idp"


class IdSource:
    """Makes UUIDv7 that grow strictly within this source, also within one millisecond and when the clock steps back.

    A 42-bit counter fills rand_a and the top of rand_b (RFC 9562 6.2, method 1) and starts each millisecond at a random
    number below 2^41; the last 32 bits are random for every id. Ids of different processes order by the millisecond.
    Safe from several threads.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        """`clock` gives nanoseconds since the Unix epoch, as time.time_ns does."""
        self._clock = clock
        self._lock = threading.Lock()
        self._milliseconds = -1
        self._counter = 0

    def make(self, count: int) -> list[UUID]:
        """`count` new ids, in growing order."""
        random = os.urandom(6 + 4 * count)
        with self._lock:
            milliseconds = self._clock() // 1_000_000
            if milliseconds > self._milliseconds:
                self._milliseconds = milliseconds
                self._counter = int.from_bytes(random[:6], "big") >> 7
            if self._counter + count > _COUNTER_LIMIT:
                # Only after 2^41 ids of one millisecond, or a clock that stands: borrow the next one.
                self._milliseconds += 1
                self._counter = int.from_bytes(random[:6], "big") >> 7
            milliseconds, counter = self._milliseconds, self._counter
            self._counter += count
        base = (milliseconds << 80) | _VERSION_AND_VARIANT
        return [
            UUID(
                int=base
                | (number >> 30) << 64
                | (number & 0x3FFF_FFFF) << 32
                | int.from_bytes(random[place : place + 4], "big")
            )
            for number, place in zip(range(counter, counter + count), range(6, 6 + 4 * count, 4), strict=True)
        ]


_process = IdSource(time.time_ns)


def new_id() -> UUID:
    """A new UUIDv7 by the system's clock."""
    return _process.make(1)[0]


def new_ids(count: int) -> list[UUID]:
    """`count` new UUIDv7 in growing order, at less than the price of `count` calls of `new_id`."""
    return _process.make(count)


def crockford(value: UUID) -> str:
    """The 128 bits as 26 characters of Crockford's base32, upper case, most significant first."""
    n, pairs = value.int, _PAIRS
    high, low = n >> 60, n & 0xFFF_FFFF_FFFF_FFFF
    return (
        f"{pairs[high >> 60]}{pairs[high >> 50 & 1023]}{pairs[high >> 40 & 1023]}{pairs[high >> 30 & 1023]}"
        f"{pairs[high >> 20 & 1023]}{pairs[high >> 10 & 1023]}{pairs[high & 1023]}"
        f"{pairs[low >> 50]}{pairs[low >> 40 & 1023]}{pairs[low >> 30 & 1023]}"
        f"{pairs[low >> 20 & 1023]}{pairs[low >> 10 & 1023]}{pairs[low & 1023]}"
    )


def from_crockford(text: str) -> UUID:
    """Read what `crockford` writes, and nothing else: no lower case, no look-alike letters. Raises ValueError."""
    if _TEXT.fullmatch(text) is None:
        raise ValueError("must be 26 upper-case characters of Crockford's base32, the first of them 0 to 7.")
    return UUID(int=int(text.translate(_TO_DIGITS), 32))


def show(prefix: Prefix, value: UUID) -> str:
    """The id as callers see it, e.g. `key_01JD3ZQ5RX8V0Q6K1M2N3P4R5S`."""
    return f"{prefix}_{crockford(value)}"


def parse(prefix: Prefix, text: str) -> UUID:
    """Read what `show` writes for this prefix. Raises ValueError with a sentence that does not repeat the text."""
    shown, underscore, rest = text.partition("_")
    if not underscore or shown != prefix or _TEXT.fullmatch(rest) is None:
        raise ValueError(f"must be {prefix}_ and 26 upper-case characters of Crockford's base32.")
    return UUID(int=int(rest.translate(_TO_DIGITS), 32))
