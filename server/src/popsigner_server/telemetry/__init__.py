"""What the operator sees: logs, metrics, traces.

This is the door: a tracer opens spans and says what a later span may link to. `traces.open_tracer` gives one that costs
nothing, or one that exports to an OTLP collector. No span, metric or log line holds message data, a signature or a
credential.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self


class Span(Protocol):
    """A stretch of work; it begins and ends with its `with` block."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None: ...

    def finish(self, code: int) -> None:
        """Say how an RPC ended, by its gRPC status code: every code but 0 (OK) marks the span as an error."""
        ...


class Tracer(Protocol):
    """Opens spans."""

    def rpc(self, path: str, metadata: Sequence[tuple[str, str | bytes]]) -> Span:
        """The span of one RPC (`/popsigner.v1.SignService/Sign`); it is the current one of its task.

        It stands below the caller's own span if `metadata` carries a `traceparent` (W3C Trace Context).
        """
        ...

    def step(self, name: str, *, items: int, links: Sequence[object]) -> Span:
        """The span of work for many RPCs at once, e.g. `vault.sign` or `ledger.commit`; `links` come from `link`."""
        ...

    def link(self) -> object | None:
        """What a later `step` links to the current span by; None without one, or where it is not sampled."""
        ...

    def close(self) -> None:
        """Export what waits, within seconds. Blocks."""
        ...
