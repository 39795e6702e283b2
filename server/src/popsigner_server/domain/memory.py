"""A bounded memory: what caches are made of."""

from collections import OrderedDict
from collections.abc import Hashable, Iterable
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
