"""Turns the functions that build calls into methods of the two clients, with the same parameters.

`Method(build)` gives `(…) -> R`, `AsyncMethod(build)` an awaitable one, `Sequel` and `AsyncSequel` the same of several
calls, `Listing` and `AsyncListing` iterators over all pages, `Download` and `AsyncDownload` iterators over the answers
of one call. Type checkers see the parameters of `build`.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from .calls import Call, Page, Steps
from .carrier import AsyncCarrier, Carrier

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Part:
    """A client, or a part of one such as `client.keys`."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier


class AsyncPart:
    """An asynchronous client, or a part of one."""

    def __init__(self, carrier: AsyncCarrier) -> None:
        self._carrier = carrier


class Pager(Generic[T]):
    """Iterates over all entries of a list, page by page; `pages()` gives the pages."""

    def __init__(self, fetch: Callable[[str], Page[T]]) -> None:
        self._fetch = fetch

    def pages(self) -> Iterator[tuple[T, ...]]:
        """Page by page, of the size that `page_size` asked for."""
        cursor = ""
        while True:
            page = self._fetch(cursor)
            yield page.entries
            if not (cursor := page.next_cursor):
                return

    def __iter__(self) -> Iterator[T]:
        for page in self.pages():
            yield from page


class AsyncPager(Generic[T]):
    """Iterates over all entries of a list, page by page; `pages()` gives the pages."""

    def __init__(self, fetch: Callable[[str], Awaitable[Page[T]]]) -> None:
        self._fetch = fetch

    async def pages(self) -> AsyncIterator[tuple[T, ...]]:
        """Page by page, of the size that `page_size` asked for."""
        cursor = ""
        while True:
            page = await self._fetch(cursor)
            yield page.entries
            if not (cursor := page.next_cursor):
                return

    async def __aiter__(self) -> AsyncIterator[T]:
        async for page in self.pages():
            for entry in page:
                yield entry


class Method(Generic[P, R]):
    """A call as a method of a synchronous client."""

    def __init__(self, build: Callable[P, Call[R]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    def __get__(self, part: Part, _owner: type[Part]) -> Callable[P, R]:
        @functools.wraps(self._build)
        def method(*args: P.args, **kwargs: P.kwargs) -> R:
            return part._carrier.perform(self._build(*args, **kwargs))

        return method


class AsyncMethod(Generic[P, R]):
    """A call as a method of an asynchronous client."""

    def __init__(self, build: Callable[P, Call[R]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    def __get__(self, part: AsyncPart, _owner: type[AsyncPart]) -> Callable[P, Coroutine[Any, Any, R]]:
        @functools.wraps(self._build)
        async def method(*args: P.args, **kwargs: P.kwargs) -> R:
            return await part._carrier.perform(self._build(*args, **kwargs))

        return method


class Sequel(Generic[P, R]):
    """Several calls, one after another, as one method of a synchronous client."""

    def __init__(self, build: Callable[P, Steps[R]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    def __get__(self, part: Part, _owner: type[Part]) -> Callable[P, R]:
        @functools.wraps(self._build)
        def method(*args: P.args, **kwargs: P.kwargs) -> R:
            steps = self._build(*args, **kwargs)
            try:
                step = next(steps)
                while True:
                    try:
                        answer = part._carrier.perform(step) if isinstance(step, Call) else step()
                    except Exception as error:
                        step = steps.throw(error)
                    else:
                        step = steps.send(answer)
            except StopIteration as end:
                result: R = end.value
                return result
            finally:
                # Where it was interrupted, it overwrites what it holds.
                steps.close()

        return method


class AsyncSequel(Generic[P, R]):
    """Several calls, one after another, as one method of an asynchronous client."""

    def __init__(self, build: Callable[P, Steps[R]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    def __get__(self, part: AsyncPart, _owner: type[AsyncPart]) -> Callable[P, Coroutine[Any, Any, R]]:
        @functools.wraps(self._build)
        async def method(*args: P.args, **kwargs: P.kwargs) -> R:
            steps = self._build(*args, **kwargs)
            try:
                step = next(steps)
                while True:
                    try:
                        if isinstance(step, Call):
                            answer = await part._carrier.perform(step)
                        else:
                            answer = await asyncio.to_thread(step)
                    except Exception as error:
                        step = steps.throw(error)
                    else:
                        step = steps.send(answer)
            except StopIteration as end:
                result: R = end.value
                return result
            finally:
                steps.close()

        return method


class Listing(Generic[P, T]):
    """A call for one page as a method of a synchronous client that gives all of them."""

    def __init__(self, build: Callable[Concatenate[str, P], Call[Page[T]]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    def __get__(self, part: Part, _owner: type[Part]) -> Callable[P, Pager[T]]:
        def method(*args: P.args, **kwargs: P.kwargs) -> Pager[T]:
            return Pager(lambda cursor: part._carrier.perform(self._build(cursor, *args, **kwargs)))

        method.__doc__ = self.__doc__
        return method


class AsyncListing(Generic[P, T]):
    """A call for one page as a method of an asynchronous client that gives all of them."""

    def __init__(self, build: Callable[Concatenate[str, P], Call[Page[T]]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    def __get__(self, part: AsyncPart, _owner: type[AsyncPart]) -> Callable[P, AsyncPager[T]]:
        def method(*args: P.args, **kwargs: P.kwargs) -> AsyncPager[T]:
            return AsyncPager(lambda cursor: part._carrier.perform(self._build(cursor, *args, **kwargs)))

        method.__doc__ = self.__doc__
        return method


class Download(Generic[P, R]):
    """A call with many answers as a method of a synchronous client that iterates over them."""

    def __init__(self, build: Callable[P, Call[R]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    def __get__(self, part: Part, _owner: type[Part]) -> Callable[P, Iterator[R]]:
        @functools.wraps(self._build)
        def method(*args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
            return part._carrier.receive(self._build(*args, **kwargs))

        return method


class AsyncDownload(Generic[P, R]):
    """A call with many answers as a method of an asynchronous client that iterates over them."""

    def __init__(self, build: Callable[P, Call[R]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    def __get__(self, part: AsyncPart, _owner: type[AsyncPart]) -> Callable[P, AsyncIterator[R]]:
        @functools.wraps(self._build)
        def method(*args: P.args, **kwargs: P.kwargs) -> AsyncIterator[R]:
            return part._carrier.receive(self._build(*args, **kwargs))

        return method
