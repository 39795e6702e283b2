"""The engine's storage: OpenBao's barrier, reached over the connection that the plugin dials back."""

from typing import Protocol

from grpclib.client import Channel

from popsigner_plugin.errors import StorageError
from popsigner_plugin.gen.openbao import backend_pb2 as pb
from popsigner_plugin.gen.openbao.backend_grpc import StorageStub


class Storage(Protocol):
    """Named blobs. Every call raises StorageError where OpenBao refuses."""

    async def get(self, key: str) -> bytes | None:
        """The blob, None where there is none."""

    async def put(self, key: str, value: bytes) -> None:
        """Write durably; a later `get` on any node sees it."""

    async def delete(self, key: str) -> None:
        """Remove; nothing happens where there is none."""

    async def list_page(self, prefix: str, *, after: str, limit: int) -> list[str]:
        """At most `limit` names below the prefix, ascending, those after `after`."""


class OpenBaoStorage:
    """Storage over the plugin's channel to its host."""

    def __init__(self, channel: Channel) -> None:
        self._stub = StorageStub(channel)

    async def get(self, key: str) -> bytes | None:
        reply = await self._stub.Get(pb.StorageGetArgs(key=key))
        _check(reply.err)
        return reply.entry.value if reply.HasField("entry") else None

    async def put(self, key: str, value: bytes) -> None:
        entry = pb.StorageEntry(key=key, value=value, seal_wrap=True)
        _check((await self._stub.Put(pb.StoragePutArgs(entry=entry))).err)

    async def delete(self, key: str) -> None:
        _check((await self._stub.Delete(pb.StorageDeleteArgs(key=key))).err)

    async def list_page(self, prefix: str, *, after: str, limit: int) -> list[str]:
        reply = await self._stub.ListPage(pb.StorageListPageArgs(prefix=prefix, after=after, limit=limit))
        _check(reply.err)
        return list(reply.keys)


def _check(error: str) -> None:
    if error:
        raise StorageError(error)
