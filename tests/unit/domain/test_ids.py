import threading
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popsigner_server.domain.ids import IdSource, Prefix, crockford, from_crockford, new_id, new_ids, parse, show

MILLISECOND = 1_000_000


def test_an_id_is_a_uuid_of_version_7_with_the_milliseconds_in_front() -> None:
    before = time.time_ns() // MILLISECOND
    made = new_id()
    after = time.time_ns() // MILLISECOND
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert before <= made.int >> 80 <= after


def test_the_time_of_rfc_9562s_example_is_written_as_the_rfc_writes_it() -> None:
    # RFC 9562 appendix A.6: 2022-02-22 14:22:22 GMT-05:00 is 0x017F22E279B0 milliseconds.
    (made,) = IdSource(lambda: 1645557742000 * MILLISECOND).make(1)
    assert str(made).startswith("017f22e2-79b0-7")


def test_ids_of_one_millisecond_grow_strictly() -> None:
    source = IdSource(lambda: 5 * MILLISECOND)
    made = [*source.make(300), *(source.make(1)[0] for _ in range(300)), *source.make(300)]
    assert made == sorted(made)
    assert len(set(made)) == 900
    assert {i.int >> 80 for i in made} == {5}


def test_ids_grow_while_the_clock_steps_back() -> None:
    times = iter([10, 20, 7, 8, 21])
    source = IdSource(lambda: next(times) * MILLISECOND)
    made = [source.make(1)[0] for _ in range(5)]
    assert made == sorted(made)
    assert [i.int >> 80 for i in made] == [10, 20, 20, 20, 21]


def test_a_full_counter_borrows_the_next_millisecond_and_keeps_the_order() -> None:
    source = IdSource(lambda: 5 * MILLISECOND)
    first = source.make(1)[0]
    source._counter = (1 << 42) - 1
    last, following = source.make(1)[0], source.make(1)[0]
    assert first < last < following
    assert (last.int >> 80, following.int >> 80) == (5, 6)
    assert all(made.version == 7 and made.variant == uuid.RFC_4122 for made in (first, last, following))


def test_a_new_millisecond_starts_its_count_anew_and_at_random() -> None:
    clock = iter(range(100))
    source = IdSource(lambda: next(clock) * MILLISECOND)
    counts = {(source.make(1)[0].int >> 32) & 0x3FFF_FFFF for _ in range(50)}
    assert len(counts) > 40


def test_threads_never_get_the_same_id() -> None:
    made: list[uuid.UUID] = []
    threads = [threading.Thread(target=lambda: made.extend(new_ids(500))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 4000


def test_a_batch_of_ids_is_as_long_as_asked_and_grows() -> None:
    made = new_ids(256)
    assert len(made) == 256
    assert made == sorted(set(made))
    assert new_ids(0) == []


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "00000000000000000000000000"),
        (1, "00000000000000000000000001"),
        (31, "0000000000000000000000000Z"),
        (1 << 60, "00000000000001000000000000"),
        ((1 << 128) - 1, "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"),
    ],
)
def test_crockfords_base32_writes_the_most_significant_bits_first(number: int, text: str) -> None:
    assert crockford(uuid.UUID(int=number)) == text


@given(st.uuids(), st.uuids())
def test_what_is_shown_reads_back_and_sorts_as_the_ids_do(first: uuid.UUID, second: uuid.UUID) -> None:
    assert from_crockford(crockford(first)) == first
    assert parse(Prefix.LOG, show(Prefix.LOG, first)) == first
    assert (crockford(first) < crockford(second)) == (first < second)


def test_an_id_is_shown_with_its_prefix() -> None:
    assert show(Prefix.API_KEY, uuid.UUID(int=1)) == "ak_00000000000000000000000001"
    assert " ".join(prefix.value for prefix in Prefix) == "key org ns user ak log wh inv sess idp"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "key",
        "key_",
        "00000000000000000000000001",
        "org_00000000000000000000000001",
        "KEY_00000000000000000000000001",
        "key_0000000000000000000000001",
        "key_000000000000000000000000001",
        "key_80000000000000000000000000",
        "key_0000000000000000000000000z",
        "key_0000000000000000000000000I",
        "key_0000000000000000000000000L",
        "key_0000000000000000000000000O",
        "key_0000000000000000000000000U",
        "key_0000000000000000000000_001",
        "key_00000000000000000000000001\n",
        " key_00000000000000000000000001",
        "key_0000000000000000000000000\u0661",
        "key_00000000-0000-7000-8000-0000000000",
    ],
)
def test_only_the_canonical_text_of_an_id_is_read(text: str) -> None:
    with pytest.raises(ValueError, match="must be key_ and 26 upper-case characters"):
        parse(Prefix.KEY, text)


@pytest.mark.parametrize(
    "text", ["", "0" * 25, "0" * 27, "8" + "0" * 25, "0" * 25 + "u", "0" * 25 + "\n", "+" + "0" * 25]
)
def test_only_canonical_base32_is_read(text: str) -> None:
    with pytest.raises(ValueError, match="must be 26 upper-case characters"):
        from_crockford(text)


def test_a_refused_id_is_not_repeated_in_the_sentence() -> None:
    with pytest.raises(ValueError, match="must be") as refused:
        parse(Prefix.KEY, "psk_live_secret")
    assert "secret" not in str(refused.value)
