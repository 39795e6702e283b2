"""OpenBao's Backend service: requests in, replies and coded errors out."""

import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from grpclib.client import Channel
from grpclib.exceptions import GRPCError, StreamTerminatedError

from popsigner_plugin.engine import SEALED, Engine
from popsigner_plugin.errors import BadInput, EngineError, StorageError
from popsigner_plugin.gen.openbao import backend_pb2 as pb
from popsigner_plugin.rpc import Unary
from popsigner_plugin.storage import OpenBaoStorage

_LOGICAL: Final = 1
_UNKNOWN: Final = 0
_CODED: Final = 3
_UNSUPPORTED_OPERATION: Final = 5
_RESOLVE_PATH: Final = "resolve-path"
_NO_RESOLVING: Final = pb.HandleRequestReply(err=pb.ProtoError(err_type=_UNSUPPORTED_OPERATION))
_log: Final = logging.getLogger(__name__)


class Backend:
    """Serves one mount. dial: the channel to what the host serves under a broker id."""

    def __init__(self, dial: Callable[[int], Awaitable[Channel]]) -> None:
        self._dial = dial
        self._channel: Channel | None = None
        self._engine: Engine | None = None

    def methods(self) -> Mapping[str, Unary]:
        methods = {
            "Setup": Unary(request=pb.SetupArgs, answer=self._setup),
            "HandleRequest": Unary(request=pb.HandleRequestArgs, answer=self._handle_request),
            "HandleExistenceCheck": Unary(request=pb.HandleExistenceCheckArgs, answer=self._existence_check),
            "InvalidateKey": Unary(request=pb.InvalidateKeyArgs, answer=self._invalidate_key),
            "SpecialPaths": Unary(request=pb.Empty, answer=self._special_paths),
            "Initialize": Unary(request=pb.InitializeArgs, answer=lambda _: pb.InitializeReply()),
            "Type": Unary(request=pb.Empty, answer=lambda _: pb.TypeReply(type=_LOGICAL)),
            "Cleanup": Unary(request=pb.Empty, answer=self._cleanup),
        }
        return {f"/pb.Backend/{name}": method for name, method in methods.items()}

    async def _setup(self, arguments: pb.SetupArgs) -> pb.SetupReply:
        try:
            self._channel = await self._dial(arguments.broker_id)
        except (TimeoutError, OSError) as error:
            return pb.SetupReply(err=f"no connection back to OpenBao: {error!r}")
        self._engine = Engine(OpenBaoStorage(self._channel), clock=lambda: time.time_ns() // 1_000_000)
        return pb.SetupReply()

    def _handle_request(
        self, arguments: pb.HandleRequestArgs
    ) -> pb.HandleRequestReply | Awaitable[pb.HandleRequestReply]:
        request = arguments.request
        # OpenBao asks for the canonical spelling of each request's path, request data and all, before it looks at its
        # policies. Every path here is its own spelling; said before anything else is looked at, because this doubles
        # the calls of the hot path.
        return _NO_RESOLVING if request.operation == _RESOLVE_PATH else self._replied(request)

    async def _replied(self, request: pb.Request) -> pb.HandleRequestReply:
        try:
            answer = await self._answered(request)
        except EngineError as error:
            return pb.HandleRequestReply(err=_coded(error.status, str(error)))
        except StorageError as error:
            return pb.HandleRequestReply(err=pb.ProtoError(err_type=_UNKNOWN, err_msg=str(error)))
        except (GRPCError, StreamTerminatedError, OSError) as error:
            _log.error("storage did not answer: %s", type(error).__name__)
            sentence = "STORAGE_UNAVAILABLE: OpenBao's storage did not answer; try again."
            return pb.HandleRequestReply(err=_coded(503, sentence))
        except Exception as error:
            return pb.HandleRequestReply(err=_coded(500, _unexpected(error)))
        response = None if answer is None else pb.Response(data=json.dumps(answer, separators=(",", ":")))
        return pb.HandleRequestReply(response=response)

    async def _answered(self, request: pb.Request) -> dict[str, object] | None:
        if self._engine is None:
            raise EngineError(503, "The engine is not set up yet; try again.", code="NOT_SET_UP")
        # A request without a body carries "null".
        data = (json.loads(request.data) if request.data else None) or {}
        if not isinstance(data, dict):
            raise BadInput("The request's data must be a JSON object.")
        return await self._engine.handle(request.operation, request.path, data)

    def _existence_check(self, _: pb.HandleExistenceCheckArgs) -> pb.HandleExistenceCheckReply:
        # Without a check every POST needs the capability "update"; a check would cost a trip to storage.
        return pb.HandleExistenceCheckReply(check_found=False)

    def _invalidate_key(self, arguments: pb.InvalidateKeyArgs) -> pb.Empty:
        if self._engine is not None:
            self._engine.invalidate(arguments.key)
        return pb.Empty()

    def _special_paths(self, _: pb.Empty) -> pb.SpecialPathsReply:
        return pb.SpecialPathsReply(paths=pb.Paths(seal_wrap_storage=SEALED))

    def _cleanup(self, _: pb.Empty) -> pb.Empty:
        self.close()
        return pb.Empty()

    def close(self) -> None:
        """Forget all keys and hang up."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None


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
