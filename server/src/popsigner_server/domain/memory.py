"""Bounded memories: what caches are made of."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

Place = TypeVar("Place", bound=Hashable)
Subject = TypeVar("Subject", bound=Hashable)
Value = TypeVar("Value")


class Memory(Generic[Place, Subject, Value]):
    """Values by their place, each about its subjects; the oldest go first, or with `get` the least recently used.

    It has an index by subject, so that forgetting one costs that one's entries: a change is told to every process, and
    none of them may walk through all that it remembers for each.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[Place, tuple[tuple[Subject, ...], Value]] = OrderedDict()
        self._places: dict[Subject, set[Place]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def peek(self, place: Place) -> Value | None:
        """What is there; it gets no younger by that."""
        entry = self._entries.get(place)
        return None if entry is None else entry[1]

    def get(self, place: Place) -> Value | None:
        """What is there; it becomes the youngest."""
        entry = self._entries.get(place)
        if entry is None:
            return None
        self._entries.move_to_end(place)
        return entry[1]

    def oldest(self) -> tuple[Place, Value] | None:
        """What would go next, with its place."""
        place = next(iter(self._entries), None)
        return None if place is None else (place, self._entries[place][1])

    def put(self, place: Place, subject: Subject, value: Value, *, also: Iterable[Subject] = ()) -> None:
        """Remember, and let go of the oldest where there is no room. `also`: more subjects that it is about."""
        self.drop(place)
        subjects = (subject, *also)
        self._entries[place] = (subjects, value)
        for each in subjects:
            self._places.setdefault(each, set()).add(place)
        if len(self._entries) > self._size:
            self.drop(next(iter(self._entries)))

    def drop(self, place: Place) -> None:
        """Forget what is there, if anything."""
        entry = self._entries.pop(place, None)
        if entry is None:
            return
        for subject in entry[0]:
            places = self._places.get(subject, set())
            places.discard(place)
            if not places:
                self._places.pop(subject, None)

    def forget(self, subject: Subject) -> None:
        """Forget everything about one subject."""
        for place in self._places.pop(subject, ()):
            self.drop(place)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._places.clear()


class Fading(Generic[Place, Subject, Value]):
    """A Memory whose values are believed for a time. Those that are over go as others come, so that it holds what came
    in that time, and not for ever what once filled it."""

    def __init__(self, size: int, *, seconds: float, clock: Callable[[], float]) -> None:
        """clock: in seconds; one that never goes back, such as time.monotonic."""
        self._memory: Memory[Place, Subject, tuple[float, Value]] = Memory(size)
        self._seconds = seconds
        self._clock = clock

    def __len__(self) -> int:
        return len(self._memory)

    def peek(self, place: Place) -> Value | None:
        """What is there and not over."""
        entry = self._memory.peek(place)
        return entry[1] if entry is not None and entry[0] > self._clock() else None

    def put(
        self,
        place: Place,
        subject: Subject,
        value: Value,
        *,
        also: Iterable[Subject] = (),
        seconds: float | None = None,
    ) -> None:
        """Believe it from now on, for `seconds` where it is not for as long as the others. `also`: more subjects that
        it is about."""
        now = self._clock()
        over = now + (self._seconds if seconds is None else seconds)
        self._memory.put(place, subject, (over, value), also=also)
        # Two for each that comes: so they become fewer, and no call waits for all of them to go.
        for _ in range(2):
            oldest = self._memory.oldest()
            if oldest is None or oldest[1][0] > now:
                break
            self._memory.drop(oldest[0])

    def forget(self, subject: Subject) -> None:
        """Forget everything about one subject."""
        self._memory.forget(subject)

    def drop(self, place: Place) -> None:
        """Forget what is there, if anything."""
        self._memory.drop(place)

    def clear(self) -> None:
        """Forget everything."""
        self._memory.clear()
