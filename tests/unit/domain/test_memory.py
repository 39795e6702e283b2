"""The bounded memory that the caches are made of."""

from popsigner_server.domain.memory import Fading, Memory


def test_what_was_put_is_found_under_its_place_alone() -> None:
    memory: Memory[str, int, str] = Memory(4)
    memory.put("a", 1, "one")
    assert (memory.get("a"), memory.peek("a"), memory.get("b")) == ("one", "one", None)
    memory.put("a", 2, "two")
    assert memory.get("a") == "two"
    assert len(memory) == 1


def test_the_least_recently_used_goes_first() -> None:
    memory: Memory[str, int, str] = Memory(2)
    memory.put("a", 1, "one")
    memory.put("b", 1, "two")
    memory.get("a")
    memory.peek("b")
    memory.put("c", 1, "three")
    assert (memory.peek("a"), memory.peek("b"), memory.peek("c")) == ("one", None, "three")


def test_a_subject_is_forgotten_under_every_place_and_no_other_is() -> None:
    memory: Memory[str, int, str] = Memory(8)
    for place, subject in (("a", 1), ("b", 1), ("c", 2)):
        memory.put(place, subject, place)
    # It belongs to another one now.
    memory.put("b", 2, "b")
    memory.forget(1)
    memory.forget(3)
    assert [memory.peek(place) for place in "abc"] == [None, "b", "c"]
    memory.forget(2)
    assert len(memory) == 0


def test_what_is_about_several_is_forgotten_with_each_of_them() -> None:
    memory: Memory[str, int, str] = Memory(8)
    memory.put("a", 1, "a", also=(2, 3))
    memory.put("b", 3, "b", also=(4, 4))
    memory.put("c", 4, "c")
    memory.forget(2)
    assert [memory.peek(place) for place in "abc"] == [None, "b", "c"]
    memory.forget(4)
    assert (len(memory), memory._places) == (0, {})


def test_the_index_is_as_bounded_as_the_entries() -> None:
    memory: Memory[int, int, str] = Memory(10)
    for number in range(1_000):
        memory.put(number, number, "x", also=(-number,))
    memory.drop(999)
    memory.drop(999)
    assert (len(memory), len(memory._places)) == (9, 18)
    memory.clear()
    assert (len(memory), len(memory._places)) == (0, 0)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_fades_is_believed_for_its_time_from_when_it_was_put_last() -> None:
    clock = Clock()
    memory: Fading[str, int, str] = Fading(8, seconds=10, clock=clock)
    memory.put("a", 1, "one")
    clock.now += 6
    memory.put("b", 1, "two")
    memory.put("a", 1, "anew")
    clock.now += 9.5
    assert (memory.peek("a"), memory.peek("b"), memory.peek("c")) == ("anew", "two", None)
    clock.now += 0.5
    assert (memory.peek("a"), memory.peek("b")) == (None, None)


def test_what_has_faded_goes_as_others_come_and_the_index_with_it() -> None:
    clock = Clock()
    memory: Fading[int, int, str] = Fading(1_000, seconds=10, clock=clock)
    for number in range(100):
        memory.put(number, number % 7, "x")
    clock.now += 10
    for number in range(100, 150):
        memory.put(number, number, "y")
    assert len(memory) == 50
    assert all(memory.peek(number) == "y" for number in range(100, 150))
    assert len(memory._memory._places) == 50


def test_what_fades_may_have_a_time_of_its_own() -> None:
    clock = Clock()
    memory: Fading[str, int, str] = Fading(8, seconds=10, clock=clock)
    memory.put("short", 1, "x", seconds=2)
    memory.put("long", 1, "x", seconds=20)
    memory.put("at once", 1, "x", seconds=0)
    clock.now += 2
    assert [place for place in ("short", "long", "at once") if memory.peek(place)] == ["long"]
    clock.now += 18
    assert memory.peek("long") is None


def test_what_fades_is_forgotten_dropped_cleared_and_bounded_like_any_memory() -> None:
    memory: Fading[str, int, str] = Fading(3, seconds=10, clock=Clock())
    for place, subject in (("a", 1), ("b", 2), ("c", 1), ("d", 2)):
        memory.put(place, subject, place, also=(9,) if place == "d" else ())
    assert [memory.peek(place) for place in "abcd"] == [None, "b", "c", "d"]
    memory.forget(1)
    memory.forget(9)
    assert [memory.peek(place) for place in "bcd"] == ["b", None, None]
    memory.drop("b")
    assert len(memory) == 0
    memory.put("a", 1, "a")
    memory.clear()
    assert (len(memory), memory.peek("a")) == (0, None)
