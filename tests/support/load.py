"""Load on a POP: clients in closed loops, each with a connection of its own, that note all that they were answered.

async with Wire(pop.grpc_socket, pop.api_key) as wire:
    load = Load(seconds=60)
    load.start(Client(wire.sign_one, keys=[key_id], messages=1_000))
    ...
    await load.stop()
    load.answered, load.refused

Bounded: every client ends after its messages, or with its load's seconds, whatever the test forgets.
"""

import asyncio
import itertools
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from popsigner_server.domain.ids import Prefix, show
from popsigner_server.gen.popsigner.v1 import (
    api_key_pb2_grpc,
    audit_pb2_grpc,
    billing_pb2_grpc,
    errors_pb2,
    key_pb2_grpc,
    namespace_pb2_grpc,
    sign_pb2,
    sign_pb2_grpc,
)
from popsigner_server.identity import parse_api_key

# Long enough that no answer of a POP that works is missed on a busy machine.
PATIENCE = 30.0
# Between two attempts at the same message.
RETRY_SECONDS = 0.05
_OPTIONS = (
    # A connection a client, as separate programs have: one that breaks breaks for one.
    ("grpc.use_local_subchannel_pool", 1),
    # Look again soon for a server that was killed; a server that is merely slow to accept has its time.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)
# The reasons of a POP that is away for the moment; the first two are gRPC's own words for a server that is gone.
AWAY = frozenset(
    {"UNAVAILABLE", "DEADLINE_EXCEEDED", "VAULT_UNAVAILABLE", "LEDGER_UNAVAILABLE", "DRAINING", "DEADLINE_PASSED"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing to sign. data: 32 random bytes, so that their hash finds one audit row and no other."""

    key_id: str
    data: bytes
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """An answered signature. actor: `ak_…` or `user_…`, who asked. signature: 64 bytes. public_key: 33, as hex."""

    item: Item
    actor: str
    signature: bytes
    public_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """No signature. reason: the ErrorReason's name, or the gRPC code's where the answer has none."""

    item: Item
    reason: str


Outcome = Signed | Refused
Stream = grpc.aio.StreamStreamCall[sign_pb2.SignStreamRequest, sign_pb2.SignStreamResponse]
# Asks once for some items, and gives an outcome for each.
Ask = Callable[[Sequence[Item]], Awaitable[list[Outcome]]]


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The ErrorReason's name of a failed call, or its code's name where it has none."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it asks for the sync Call and reads what both have
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    if error.details() == "Internal error from Core":
        # grpc.aio's word for a write into a stream whose connection has just ended; no server said it.
        return "UNAVAILABLE"
    return str(error.code().name)


def quota_of(error: grpc.aio.AioRpcError) -> str:
    """What the QuotaFailure of a failed call names; empty where it carries none."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # as above
    for detail in status.details if status is not None else ():
        failure = error_details_pb2.QuotaFailure()
        if detail.Unpack(failure):
            return ", ".join(violation.subject for violation in failure.violations)
    return ""


class Wire:
    """A connection to one server process, with the contract's stubs, in the name of one API key, or of a person.

    actor: `user_…` where the credential is that person's access token. patience: the deadline of each call for
    signatures, in seconds.
    """

    def __init__(self, address: str, credential: str, *, actor: str = "", patience: float = PATIENCE) -> None:
        self.patience = patience
        self.actor = actor or show(Prefix.API_KEY, parse_api_key(credential).id)
        self.metadata = (("authorization", f"Bearer {credential}"),)
        self.channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self.keys = key_pb2_grpc.KeyServiceStub(self.channel)
        self.signing = sign_pb2_grpc.SignServiceStub(self.channel)
        self.namespaces = namespace_pb2_grpc.NamespaceServiceStub(self.channel)
        self.api_keys = api_key_pb2_grpc.ApiKeyServiceStub(self.channel)
        self.audit = audit_pb2_grpc.AuditServiceStub(self.channel)
        self.billing = billing_pb2_grpc.BillingServiceStub(self.channel)
        self._stream: Stream | None = None
        self._numbers = itertools.count(1)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
        await self.channel.close()

    async def sign_one(self, items: Sequence[Item]) -> list[Outcome]:
        """Sign: exactly one item."""
        (item,) = items
        request = sign_pb2.SignRequest(key_id=item.key_id, data=item.data, request_id=item.request_id)
        try:
            answer = await self.signing.Sign(request, metadata=self.metadata, timeout=self.patience)
        except grpc.aio.AioRpcError as error:
            return [Refused(item=item, reason=reason_of(error))]
        return [Signed(item=item, actor=self.actor, signature=answer.signature, public_key=answer.public_key)]

    async def sign_twice(self, items: Sequence[Item]) -> list[Outcome]:
        """Sign, asked twice at once by the same request_id, as a client does that hedges or that did not wait for the
        answer to its first attempt: the same signature, whichever comes back."""
        first, second = await asyncio.gather(self.sign_one(items), self.sign_one(items))
        twice = first + second
        signatures = {outcome.signature for outcome in twice if isinstance(outcome, Signed)}
        assert len(signatures) < 2, "one request_id has two signatures"
        return sorted(twice, key=_weight)[:1]

    async def sign_batch(self, items: Sequence[Item]) -> list[Outcome]:
        """BatchSign."""
        request = sign_pb2.BatchSignRequest(requests=_sign_items(items))
        try:
            answer = await self.signing.BatchSign(request, metadata=self.metadata, timeout=self.patience)
        except grpc.aio.AioRpcError as error:
            return [Refused(item=item, reason=reason_of(error)) for item in items]
        return self._outcomes(items, answer.signatures)

    async def sign_stream(self, items: Sequence[Item]) -> list[Outcome]:
        """One message of SignStream and its answer, on a stream that stays open; one caller at a time."""
        message = sign_pb2.SignStreamRequest(correlation_id=next(self._numbers), requests=_sign_items(items))
        if self._stream is None:
            self._stream = self.signing.SignStream(metadata=self.metadata)
        try:
            async with asyncio.timeout(self.patience):
                answer = await _through(self._stream, message)
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            # The stream is of no more use; the next message opens another one.
            self._stream.cancel()
            self._stream = None
            reason = reason_of(error) if isinstance(error, grpc.aio.AioRpcError) else "DEADLINE_EXCEEDED"
            return [Refused(item=item, reason=reason) for item in items]
        assert answer.correlation_id == message.correlation_id
        if answer.HasField("error"):
            reason = errors_pb2.ErrorReason.Name(answer.error.reason)
            return [Refused(item=item, reason=reason) for item in items]
        return self._outcomes(items, answer.signatures)

    def _outcomes(self, items: Sequence[Item], results: Sequence[sign_pb2.SignResult]) -> list[Outcome]:
        return [
            Refused(item=item, reason=errors_pb2.ErrorReason.Name(result.error.reason))
            if result.HasField("error")
            else Signed(item=item, actor=self.actor, signature=result.signature, public_key=result.public_key)
            for item, result in zip(items, results, strict=True)
        ]


async def _through(stream: Stream, message: sign_pb2.SignStreamRequest) -> sign_pb2.SignStreamResponse:
    """Raises AioRpcError with what ended the stream."""
    try:
        await stream.write(message)
        answer = await stream.read()
    except asyncio.InvalidStateError:
        # It had ended before we wrote.
        answer = grpc.aio.EOF
    if isinstance(answer, sign_pb2.SignStreamResponse):
        return answer
    raise grpc.aio.AioRpcError(
        await stream.code(), grpc.aio.Metadata(), await stream.trailing_metadata(), details=await stream.details()
    )


def _weight(outcome: Outcome) -> int:
    """A refusal that no retry heals weighs most, then a signature."""
    return 1 if isinstance(outcome, Signed) else 2 if outcome.reason in AWAY else 0


def _sign_items(items: Sequence[Item]) -> Iterator[sign_pb2.SignItem]:
    return (sign_pb2.SignItem(key_id=item.key_id, data=item.data, request_id=item.request_id) for item in items)


class Client:
    """Asks, waits, notes the outcomes, asks again: until its messages are through or it is told to stop.

    size: items a message. named: each item has a request_id, and one that met a POP that is away is asked again until
    it is answered; without, it is given up and the next message is a new one. mortal: ends at the first refusal that
    is not about a POP that is away. pause: seconds between two messages.
    """

    def __init__(
        self,
        ask: Ask,
        *,
        keys: Sequence[str],
        messages: int,
        size: int = 1,
        named: bool = False,
        mortal: bool = False,
        pause: float = 0.0,
    ) -> None:
        self._ask = ask
        self._keys = itertools.cycle(keys)
        self._left = messages
        self._size = size
        self._named = named
        self._mortal = mortal
        self._pause = pause
        self._stopped = False
        self.answered: list[Signed] = []
        self.refused: list[Refused] = []
        # Of everything that was ever asked for, answered or not.
        self.asked: list[Item] = []

    def stop(self) -> None:
        """End after the message that is out."""
        self._stopped = True

    def stop_after(self, messages: int) -> None:
        """End after so many messages more."""
        self._left = min(self._left, messages)

    async def run(self) -> None:
        while self._left > 0:
            self._left -= 1
            items = [self._item() for _ in range(self._size)]
            self.asked += items
            while items and not self._stopped:
                away = self._noted(await self._ask(items))
                if away:
                    await asyncio.sleep(RETRY_SECONDS)
                items = away if self._named else []
            if self._stopped:
                return
            await asyncio.sleep(self._pause)

    def _item(self) -> Item:
        return Item(
            key_id=next(self._keys), data=os.urandom(32), request_id=os.urandom(16).hex() if self._named else ""
        )

    def _noted(self, outcomes: Sequence[Outcome]) -> list[Item]:
        """Note the outcomes; returns the items that met a POP that is away."""
        away = []
        for outcome in outcomes:
            if isinstance(outcome, Signed):
                self.answered.append(outcome)
                continue
            self.refused.append(outcome)
            if outcome.reason in AWAY:
                away.append(outcome.item)
            elif self._mortal:
                self._stopped = True
        return away


class Load:
    """Some clients at once. seconds: after so many each of them is told to stop."""

    def __init__(self, *, seconds: float) -> None:
        self._ends = time.monotonic() + seconds
        self.clients: list[Client] = []
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, *clients: Client) -> None:
        loop = asyncio.get_running_loop()
        for client in clients:
            self.clients.append(client)
            self._tasks.append(loop.create_task(client.run()))
            loop.call_later(max(0.0, self._ends - time.monotonic()), client.stop)

    async def ended(self, *, within: float) -> bool:
        """Wait until every client ended by itself; False if one still runs `within` seconds."""
        done, pending = await asyncio.wait(self._tasks, timeout=within)
        for task in done:
            task.result()
        return not pending

    async def stop(self) -> None:
        """Tell all to stop, wait for the messages that are out; raises what a client raised."""
        for client in self.clients:
            client.stop()
        await asyncio.gather(*self._tasks)

    @property
    def answered(self) -> list[Signed]:
        return [signed for client in self.clients for signed in client.answered]

    @property
    def refused(self) -> list[Refused]:
        return [refused for client in self.clients for refused in client.refused]

    @property
    def asked(self) -> list[Item]:
        return [item for client in self.clients for item in client.asked]
