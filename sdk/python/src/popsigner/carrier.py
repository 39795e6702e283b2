"""How calls travel: over a grpc channel for `Client`, over a grpc.aio channel for `AsyncClient`.

The two carriers differ in `await` alone. The synchronous one uses gRPC's own synchronous channel, and no event loop
in a thread behind it: a call stays in its thread (no hand-over, which would cost more than the rest of the client),
threads share the channel, and Ctrl-C interrupts it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import version
from typing import Any, TypeVar, cast

import grpc
from grpc import aio

from .calls import Call, Repeat
from .calls.signing import SIGN_STREAM, identify
from .credential import AccessTokens
from .endpoint import Connection
from .errors import ConfigurationError, DeadlineExceeded, PopsignerError, TokenExpired
from .gen.popsigner.v1 import BatchSignRequest, SignRequest, SignStreamResponse
from .retry import Attempts, Retry
from .status import RpcFailure, error_of_call
from .wire import decode_answer

R = TypeVar("R")

# A page of 1000 keys with all the metadata that they may have is below this.
_LARGEST_ANSWER = 32 * 1024 * 1024


def _as_is(encoded: bytes) -> bytes:
    return encoded


class Dealings:
    """What both carriers know: where the POP is, what is presented to it, and how long and how often to try."""

    def __init__(self, connection: Connection, *, timeout: float, retry: Retry | None) -> None:
        if timeout <= 0:
            raise ConfigurationError("timeout is in seconds and above 0")
        self.connection = connection
        self.timeout = timeout
        self.retry = retry
        self.tokens = AccessTokens(connection.credential, connection) if connection.credential else None
        named = (("x-popsigner-organization", connection.organization),) if connection.organization else ()
        self._named: tuple[tuple[str, str], ...] = named

    def token(self) -> str | None:
        """What is presented; None for an access token that is over."""
        return self.connection.api_key if self.tokens is None else self.tokens.current()

    def metadata(self, token: str) -> tuple[tuple[str, str], ...]:
        """What goes with every call."""
        return (("authorization", f"Bearer {token}"), *self._named)

    def renews(self, error: PopsignerError, token: str | None, attempts: Attempts) -> bool:
        """Whether the call is sent again at once, with another access token. It may be: the POP has refused before it
        did anything."""
        return self.refused(error, token) and attempts.renew_once()

    def refused(self, error: PopsignerError, token: str | None) -> bool:
        """Whether the POP says that this access token is over; the next call then presents another one."""
        if self.tokens is None or token is None or not isinstance(error, TokenExpired):
            return False
        self.tokens.refuse(token)
        return True

    def options(self) -> list[tuple[str, Any]]:
        """gRPC's channel options."""
        return [
            ("grpc.primary_user_agent", f"popsigner-python/{version('popsigner')}"),
            ("grpc.max_receive_message_length", _LARGEST_ANSWER),
            # A POP that restarts is back within seconds: gRPC's own pauses grow to two minutes.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2000),
            # A proxy from the environment must not see what is meant for this machine.
            ("grpc.enable_http_proxy", 0 if self.connection.endpoint.local else 1),
        ]

    def credentials(self) -> grpc.ChannelCredentials | None:
        """None for plaintext."""
        if not self.connection.endpoint.secure:
            return None
        if self.connection.ca_file is None:
            return grpc.ssl_channel_credentials()
        try:
            return grpc.ssl_channel_credentials(self.connection.ca_file.read_bytes())
        except OSError as error:
            raise ConfigurationError(
                f"the certificates in {self.connection.ca_file} cannot be read: {error.strerror}"
            ) from None

    def attempts(self, call: Call[Any]) -> Attempts:
        """The attempts that this call may have; gives request ids where they make a repeat safe."""
        if self.retry is not None and call.rpc.repeat is Repeat.WITH_REQUEST_ID:
            match call.request:
                case SignRequest():
                    identify(call.request)
                case BatchSignRequest():
                    for item in call.request.requests:
                        identify(item)
        repeatable = call.rpc.repeat is not Repeat.NEVER
        return Attempts(self.retry if repeatable else None, self._allowed(call))

    def error(self, failure: grpc.RpcError, call: Call[Any]) -> PopsignerError:
        """The typed error of what grpc raised."""
        return error_of_call(
            # Both libraries raise objects that are a call as well; their types do not say so.
            cast(RpcFailure, failure),
            endpoint=self.connection.endpoint.shown,
            timeout=self._allowed(call),
        )

    def late(self) -> DeadlineExceeded:
        """The error of a call that has waited for its access token in vain."""
        return DeadlineExceeded(f"the POP at {self.connection.endpoint.shown} did not renew the session in time")

    def close(self) -> None:
        """Renew nothing any more."""
        if self.tokens is not None:
            self.tokens.close()

    def _allowed(self, call: Call[Any]) -> float:
        return self.timeout if call.timeout is None else call.timeout


class Carrier:
    """Performs calls over grpc. Threads may share it."""

    def __init__(self, dealings: Dealings) -> None:
        self.dealings = dealings
        target, options = dealings.connection.endpoint.target, dealings.options()
        credentials = dealings.credentials()
        self._channel = (
            grpc.secure_channel(target, credentials, options) if credentials else grpc.insecure_channel(target, options)
        )

    def perform(self, call: Call[R]) -> R:
        """Send, wait, and read the answer. Raises PopsignerError."""
        attempts = self.dealings.attempts(call)
        send = self._channel.unary_unary(
            call.rpc.path, request_serializer=call.rpc.encode, response_deserializer=call.rpc.read
        )
        while True:
            token = None
            try:
                token = self._token(attempts)
                answer = send(call.request, timeout=attempts.remaining(), metadata=self.dealings.metadata(token))
            except grpc.RpcError as failure:
                error = self.dealings.error(failure, call)
            except PopsignerError as failure:
                error = failure
            else:
                return call.result(answer)
            if not self.dealings.renews(error, token, attempts):
                time.sleep(attempts.pause_after(error))

    def receive(self, call: Call[R]) -> Iterator[R]:
        """Send, and read the answers of a call that has many. Begun anew only while there is none yet. Raises
        PopsignerError."""
        attempts = self.dealings.attempts(call)
        send = self._channel.unary_stream(
            call.rpc.path, request_serializer=call.rpc.encode, response_deserializer=call.rpc.read
        )
        while True:
            token = answers = None
            begun = False
            try:
                token = self._token(attempts)
                answers = send(call.request, timeout=attempts.remaining(), metadata=self.dealings.metadata(token))
                for answer in answers:
                    begun = True
                    yield call.result(answer)
            except grpc.RpcError as failure:
                error = self.dealings.error(failure, call)
            except PopsignerError as failure:
                error = failure
            else:
                return
            finally:
                if answers is not None:
                    answers.cancel()
            if begun:
                raise error
            if not self.dealings.renews(error, token, attempts):
                time.sleep(attempts.pause_after(error))

    def _token(self, attempts: Attempts) -> str:
        token = self.dealings.token()
        if token is not None or self.dealings.tokens is None:
            return token or ""
        try:
            return self.dealings.tokens.next().result(attempts.remaining())
        except TimeoutError:
            raise self.dealings.late() from None

    def close(self) -> None:
        """Close the channel; calls under way are cancelled."""
        self.dealings.close()
        self._channel.close()


class AsyncCarrier:
    """Performs calls over grpc.aio, in the event loop that performs its first one."""

    def __init__(self, dealings: Dealings) -> None:
        self.dealings = dealings
        self._credentials = dealings.credentials()
        self._opened: tuple[aio.Channel, asyncio.AbstractEventLoop] | None = None

    def channel(self) -> aio.Channel:
        """Opened at the first call: grpc.aio ties a channel to the event loop that runs when it is made."""
        loop = asyncio.get_running_loop()
        if self._opened is None:
            target, options = self.dealings.connection.endpoint.target, self.dealings.options()
            channel = (
                aio.secure_channel(target, self._credentials, options)
                if self._credentials
                else aio.insecure_channel(target, options)
            )
            self._opened = (channel, loop)
        channel, owner = self._opened
        if owner is not loop:
            raise ConfigurationError("this client belongs to another event loop; make one AsyncClient for each")
        return channel

    async def perform(self, call: Call[R]) -> R:
        """Send, wait, and read the answer. Raises PopsignerError."""
        attempts = self.dealings.attempts(call)
        send = self.channel().unary_unary(
            call.rpc.path, request_serializer=call.rpc.encode, response_deserializer=call.rpc.read
        )
        while True:
            token = None
            try:
                token = await self._token(attempts)
                answer = await send(call.request, timeout=attempts.remaining(), metadata=self.dealings.metadata(token))
            except aio.AioRpcError as failure:
                error = self.dealings.error(failure, call)
            except PopsignerError as failure:
                error = failure
            else:
                return call.result(answer)
            if not self.dealings.renews(error, token, attempts):
                await asyncio.sleep(attempts.pause_after(error))

    async def receive(self, call: Call[R]) -> AsyncIterator[R]:
        """Send, and read the answers of a call that has many. Begun anew only while there is none yet. Raises
        PopsignerError."""
        attempts = self.dealings.attempts(call)
        send = self.channel().unary_stream(
            call.rpc.path, request_serializer=call.rpc.encode, response_deserializer=call.rpc.read
        )
        while True:
            token = answers = None
            begun = False
            try:
                token = await self._token(attempts)
                answers = send(call.request, timeout=attempts.remaining(), metadata=self.dealings.metadata(token))
                async for answer in answers:
                    begun = True
                    yield call.result(answer)
            except aio.AioRpcError as failure:
                error = self.dealings.error(failure, call)
            except PopsignerError as failure:
                error = failure
            else:
                return
            finally:
                if answers is not None:
                    answers.cancel()
            if begun:
                raise error
            if not self.dealings.renews(error, token, attempts):
                await asyncio.sleep(attempts.pause_after(error))

    async def open_stream(self) -> "tuple[aio.StreamStreamCall[bytes, SignStreamResponse], str]":
        """One SignStream call, which takes encoded requests, and the token that it presents."""
        token = await self._token(Attempts(None, self.dealings.timeout))
        call = self.channel().stream_stream(
            SIGN_STREAM, request_serializer=_as_is, response_deserializer=decode_answer
        )(metadata=self.dealings.metadata(token))
        return call, token

    async def _token(self, attempts: Attempts) -> str:
        token = self.dealings.token()
        if token is not None or self.dealings.tokens is None:
            return token or ""
        # Shielded: others may wait for the same trade.
        trade = asyncio.shield(asyncio.wrap_future(self.dealings.tokens.next()))
        try:
            return await asyncio.wait_for(trade, attempts.remaining())
        except TimeoutError:
            raise self.dealings.late() from None

    async def close(self) -> None:
        """Close the channel; calls under way are cancelled."""
        self.dealings.close()
        if self._opened is not None:
            await self._opened[0].close()
