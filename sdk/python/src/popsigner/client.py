"""The two clients. Each call is written once, in `popsigner.calls`; `popsigner.parts` says which client offers it under
which name."""

import os
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from types import TracebackType
from typing import Any, Self

from .calls import signing
from .carrier import AsyncCarrier, Carrier, Dealings
from .credential import Credential
from .endpoint import connection
from .methods import AsyncMethod, Method
from .parts import AsyncWhole, Whole
from .retry import Retry
from .signing import SignItem, SignResult
from .stream import sign_stream

DEFAULT_TIMEOUT = 10.0
DEFAULT_RETRY = Retry()


def _dealings(
    *,
    api_key: str | None,
    api_key_file: str | os.PathLike[str] | None,
    credential: Credential | None,
    endpoint: str | None,
    organization: str | None,
    ca_file: str | os.PathLike[str] | None,
    insecure: bool,
    timeout: float,
    retry: Retry | None,
) -> Dealings:
    settled = connection(
        api_key=api_key,
        api_key_file=api_key_file,
        credential=credential,
        endpoint=endpoint,
        organization=organization,
        ca_file=ca_file,
        insecure=insecure,
        environment=os.environ,
    )
    return Dealings(settled, timeout=timeout, retry=retry)


class Client(Whole):
    """A POP, as a program without an event loop sees it. Threads may share one client.

    `api_key` and `endpoint` come from POPSIGNER_API_KEY, POPSIGNER_API_KEY_FILE and POPSIGNER_ENDPOINT where they are
    not given; the endpoint is `https://host`, `host:port` on this machine (127.0.0.1:8080 by default) or
    `unix:///path`. Plaintext to another machine needs `insecure=True`. `ca_file` holds PEM certificates to trust
    instead of the public ones. `organization` (an id or slug, by default POPSIGNER_ORGANIZATION) says which one a
    person with several means. `timeout` is in seconds for a call with all its attempts; `retry=None` means one attempt.

    Raises ConfigurationError.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        api_key_file: str | os.PathLike[str] | None = None,
        credential: Credential | None = None,
        endpoint: str | None = None,
        organization: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        insecure: bool = False,
        timeout: float = DEFAULT_TIMEOUT,
        retry: Retry | None = DEFAULT_RETRY,
    ) -> None:
        dealings = _dealings(
            api_key=api_key,
            api_key_file=api_key_file,
            credential=credential,
            endpoint=endpoint,
            organization=organization,
            ca_file=ca_file,
            insecure=insecure,
            timeout=timeout,
            retry=retry,
        )
        super().__init__(Carrier(dealings))

    sign = Method(signing.sign)
    sign_batch = Method(signing.sign_batch)
    verify = Method(signing.verify)

    def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        self._carrier.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client(endpoint={self._carrier.dealings.connection.endpoint.shown!r})"


class AsyncClient(AsyncWhole):
    """A POP, as an asyncio program sees it: `Client` with awaitable calls, asynchronous iterators, and `sign_stream`.

    The arguments are those of `Client`. It belongs to the event loop that makes its first call.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        api_key_file: str | os.PathLike[str] | None = None,
        credential: Credential | None = None,
        endpoint: str | None = None,
        organization: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        insecure: bool = False,
        timeout: float = DEFAULT_TIMEOUT,
        retry: Retry | None = DEFAULT_RETRY,
    ) -> None:
        dealings = _dealings(
            api_key=api_key,
            api_key_file=api_key_file,
            credential=credential,
            endpoint=endpoint,
            organization=organization,
            ca_file=ca_file,
            insecure=insecure,
            timeout=timeout,
            retry=retry,
        )
        super().__init__(AsyncCarrier(dealings))

    sign = AsyncMethod(signing.sign)
    sign_batch = AsyncMethod(signing.sign_batch)
    verify = AsyncMethod(signing.verify)

    def sign_stream(
        self, items: AsyncIterable[SignItem] | Iterable[SignItem], *, batch: int = 64, in_flight: int = 16
    ) -> AsyncGenerator[tuple[Any, SignResult], None]:
        """Sign items for as long as `items` gives some; yields `(tag, result)` as answers come, in any order.

        What is ready goes together, up to `batch` (1 to 256) items a message; at most `in_flight` (1 to 64) messages
        are unanswered or not yet consumed, so a slow consumer holds `items` back. See `popsigner.stream.sign_stream`.
        """
        return sign_stream(self._carrier, items, batch=batch, in_flight=in_flight)

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        await self._carrier.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient(endpoint={self._carrier.dealings.connection.endpoint.shown!r})"
