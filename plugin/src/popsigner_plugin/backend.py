"""OpenBao's Backend service: requests in, replies and coded errors out."""

import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.server import Stream

from popsigner_plugin.engine import SEALED, Engine
from popsigner_plugin.errors import BadInput, EngineError, StorageError
from popsigner_plugin.gen.openbao import backend_pb2 as pb
from popsigner_plugin.gen.openbao.backend_grpc import BackendBase
from popsigner_plugin.storage import OpenBaoStorage

_Arguments = TypeVar("_Arguments")
_LOGICAL: Final = 1
_UNKNOWN: Final = 0
_CODED: Final = 3
_UNSUPPORTED_OPERATION: Final = 5
_RESOLVE_PATH: Final = "resolve-path"
_NO_RESOLVING: Final = pb.HandleRequestReply(err=pb.ProtoError(err_type=_UNSUPPORTED_OPERATION))
_log: Final = logging.getLogger(__name__)


class Backend(BackendBase):
    """Serves one mount. dial: the channel to what the host serves under a broker id."""

    def __init__(self, dial: Callable[[int], Awaitable[Channel]]) -> None:
        self._dial = dial
        self._channel: Channel | None = None
        self._engine: Engine | None = None

    async def Setup(self, stream: Stream[pb.SetupArgs, pb.SetupReply]) -> None:
        arguments = await _received(stream)
        try:
            self._channel = await self._dial(arguments.broker_id)
        except (TimeoutError, OSError) as error:
            await stream.send_message(pb.SetupReply(err=f"no connection back to OpenBao: {error!r}"))
            return
        self._engine = Engine(OpenBaoStorage(self._channel), clock=lambda: time.time_ns() // 1_000_000)
        await stream.send_message(pb.SetupReply())

    async def HandleRequest(self, stream: Stream[pb.HandleRequestArgs, pb.HandleRequestReply]) -> None:
        request = (await _received(stream)).request
        if request.operation == _RESOLVE_PATH:
            # OpenBao asks for the canonical spelling of each request's path, request data and all, before it looks at
            # its policies. Every path here is its own spelling; said before anything else is looked at, because this
            # doubles the calls of the hot path.
            await stream.send_message(_NO_RESOLVING)
            return
        try:
            answer = await self._answered(request)
        except EngineError as error:
            reply = pb.HandleRequestReply(err=_coded(error.status, str(error)))
        except StorageError as error:
            reply = pb.HandleRequestReply(err=pb.ProtoError(err_type=_UNKNOWN, err_msg=str(error)))
        except (GRPCError, StreamTerminatedError, OSError) as error:
            _log.error("storage did not answer: %s", type(error).__name__)
            sentence = "STORAGE_UNAVAILABLE: OpenBao's storage did not answer; try again."
            reply = pb.HandleRequestReply(err=_coded(503, sentence))
        except Exception as error:
            reply = pb.HandleRequestReply(err=_coded(500, _unexpected(error)))
        else:
            response = None if answer is None else pb.Response(data=json.dumps(answer, separators=(",", ":")))
            reply = pb.HandleRequestReply(response=response)
        await stream.send_message(reply)

    async def _answered(self, request: pb.Request) -> dict[str, object] | None:
        if self._engine is None:
            raise EngineError(503, "The engine is not set up yet; try again.", code="NOT_SET_UP")
        # A request without a body carries "null".
        data = (json.loads(request.data) if request.data else None) or {}
        if not isinstance(data, dict):
            raise BadInput("The request's data must be a JSON object.")
        return await self._engine.handle(request.operation, request.path, data)

    async def HandleExistenceCheck(
        self, stream: Stream[pb.HandleExistenceCheckArgs, pb.HandleExistenceCheckReply]
    ) -> None:
        # Without a check every POST needs the capability "update"; a check would cost a trip to storage.
        await _received(stream)
        await stream.send_message(pb.HandleExistenceCheckReply(check_found=False))

    async def InvalidateKey(self, stream: Stream[pb.InvalidateKeyArgs, pb.Empty]) -> None:
        arguments = await _received(stream)
        if self._engine is not None:
            self._engine.invalidate(arguments.key)
        await stream.send_message(pb.Empty())

    async def SpecialPaths(self, stream: Stream[pb.Empty, pb.SpecialPathsReply]) -> None:
        await _received(stream)
        await stream.send_message(pb.SpecialPathsReply(paths=pb.Paths(seal_wrap_storage=SEALED)))

    async def Initialize(self, stream: Stream[pb.InitializeArgs, pb.InitializeReply]) -> None:
        await _received(stream)
        await stream.send_message(pb.InitializeReply())

    async def Type(self, stream: Stream[pb.Empty, pb.TypeReply]) -> None:
        await _received(stream)
        await stream.send_message(pb.TypeReply(type=_LOGICAL))

    async def Cleanup(self, stream: Stream[pb.Empty, pb.Empty]) -> None:
        await _received(stream)
        self.close()
        await stream.send_message(pb.Empty())

    def close(self) -> None:
        """Forget all keys and hang up."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None


async def _received(stream: Stream[_Arguments, Any]) -> _Arguments:
    arguments = await stream.recv_message()
    if arguments is None:
        raise GRPCError(Status.INVALID_ARGUMENT, "the call carries no message")
    return arguments


def _coded(status: int, sentence: str) -> pb.ProtoError:
    return pb.ProtoError(err_type=_CODED, err_code=status, err_msg=sentence)


def _unexpected(error: Exception) -> str:
    """Log where it happened, without the error's text, which could quote the request; the caller gets the id."""
    error_id = uuid.uuid4().hex[:12]
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(f"{trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}")
        trace = trace.tb_next
    _log.error("unexpected %s, error id %s, at %s", type(error).__name__, error_id, " > ".join(frames))
    return f"UNEXPECTED: The engine failed unexpectedly; its log has the details under error id {error_id}."
