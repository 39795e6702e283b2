"""The mixed load's calls that change things, and those that are wrong.

Whole lives of keys and API keys, wrong API keys, malformed requests. After each change the next call must meet it, so
every step has its own expected end.
"""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

from popsigner_server.domain.ids import new_id
from popsigner_server.gen.popsigner.v1 import api_key_pb2, key_pb2, sign_pb2
from popsigner_server.identity import PresentedKey, parse_api_key
from popsigner_server.identity.hashing import new_secret
from tests.bench.calls import BATCH_SIGN, SIGN
from tests.bench.parties import Parties, Party
from tests.bench.tally import Kind, Tally
from tests.support.load import PATIENCE, Wire

# Of the keys that are made, one of so many stays and signs from then on; the others are destroyed.
STAYS = 10
SCOPES = ["api:keys:sign", "api:keys:read"]
# Unknown API keys a second. A server remembers them for a minute, and 4 096 at most.
UNKNOWN = 8
# Seconds within which every server process has heard of a change.
NOTICE = 1.0
GONE = ("KEY_DELETED", "KEY_NOT_FOUND")


@dataclass(frozen=True, slots=True, kw_only=True)
class Churn:
    """The calls. server: the socket of the first server process. http: `http://host:port`."""

    parties: Parties
    tally: Tally
    server: str
    http: str
    session: aiohttp.ClientSession

    def kinds(self) -> list[Kind]:
        rates: tuple[tuple[str, float, Callable[[], Awaitable[object]]], ...] = (
            ("life of a key", 0.5, self.key_life),
            ("life of an API key", 0.2, self.api_key_life),
            ("unknown API key", UNKNOWN, self.unknown_api_key),
            ("wrong secret", 2, self.wrong_secret),
            ("malformed request", 2, self.malformed),
            ("malformed JSON", 1, self.malformed_json),
        )
        return [Kind(name=name, per_second=per_second, call=call) for name, per_second, call in rates]

    async def key_life(self) -> None:
        """Created, rotated, disabled, enabled, destroyed, with a signature in each state; it ends at a step that
        failed."""
        party = self.parties.any
        created = await self._ask(
            "CreateKey", party, party.wire.keys.CreateKey, key_pb2.CreateKeyRequest(name=f"k-{os.urandom(8).hex()}")
        )
        if created is None:
            return
        key_id, keys = created.key.id, party.wire.keys
        await self.tally.ended("Sign by a new key", party.sign(key_id))
        if random.randrange(STAYS) == 0:
            party.keys.append(key_id)
            return
        steps: tuple[tuple[str, Callable[..., Any], object, str, tuple[str, ...]], ...] = (
            ("RotateKey", keys.RotateKey, key_pb2.RotateKeyRequest(key_id=key_id), "a rotated", ()),
            ("DisableKey", keys.DisableKey, key_pb2.DisableKeyRequest(key_id=key_id), "a disabled", ("KEY_DISABLED",)),
            ("EnableKey", keys.EnableKey, key_pb2.EnableKeyRequest(key_id=key_id), "an enabled", ()),
            ("DeleteKey", keys.DeleteKey, key_pb2.DeleteKeyRequest(key_id=key_id, force=True), "a destroyed", GONE),
        )
        for name, method, request, what, expected in steps:
            if await self._ask(name, party, method, request) is None:
                return
            await self.tally.ended(f"Sign by {what} key", party.sign(key_id), *expected)

    async def api_key_life(self) -> None:
        """Made, rotated without an overlap, revoked, with a signature by each secret in each state."""
        party = self.parties.any
        api_keys = party.wire.api_keys
        request = api_key_pb2.CreateApiKeyRequest(name=f"a-{os.urandom(8).hex()}", scopes=SCOPES)
        made = await self._ask("CreateApiKey", party, api_keys.CreateApiKey, request)
        if made is None:
            return
        await self._sign_with(party, made.key, "Sign by a new API key")
        rotation = api_key_pb2.RotateApiKeyRequest(api_key_id=made.api_key.id)
        rotated = await self._ask("RotateApiKey", party, api_keys.RotateApiKey, rotation)
        if rotated is None:
            return
        await self._sign_with(party, made.key, "Sign by a replaced secret", "API_KEY_REVOKED", "CREDENTIALS_INVALID")
        # Beside wrong secrets a new one may be refused until the notice of its rotation has come.
        await asyncio.sleep(NOTICE)
        await self._sign_with(party, rotated.key, "Sign by a rotated API key")
        revocation = api_key_pb2.RevokeApiKeyRequest(api_key_id=made.api_key.id)
        if await self._ask("RevokeApiKey", party, api_keys.RevokeApiKey, revocation) is None:
            return
        await self._sign_with(party, rotated.key, "Sign by a revoked API key", "API_KEY_REVOKED")

    async def unknown_api_key(self) -> None:
        presented = PresentedKey(environment="live", id=new_id(), secret=new_secret())
        await self._sign_wrongly("Sign by an unknown API key", self.parties.any, presented)

    async def wrong_secret(self) -> None:
        party = self.parties.any
        presented = replace(parse_api_key(party.api_key), secret=new_secret())
        await self._sign_wrongly("Sign by a wrong secret", party, presented)

    async def malformed(self) -> None:
        """No message, a digest of the wrong length, no such key, no items, no such RPC."""
        party = self.parties.any
        short = sign_pb2.SignRequest(key_id=party.key, data=b"short", prehashed=True).SerializeToString()
        unknown = sign_pb2.SignRequest(key_id="production/nobody", data=b"x").SerializeToString()
        method, body, expected = random.choice(
            (
                (SIGN, b"\xff" * 16, "MALFORMED_REQUEST"),
                (SIGN, short, "DIGEST_LENGTH"),
                (SIGN, unknown, "KEY_NOT_FOUND"),
                (BATCH_SIGN, b"", "BATCH_EMPTY"),
                ("/popsigner.v1.SignService/Nothing", b"", "METHOD_UNKNOWN"),
            )
        )
        ask: Any = party.wire.channel.unary_unary(method)
        call = ask(body, metadata=party.wire.metadata, timeout=PATIENCE)
        await self.tally.ended(f"malformed: {expected}", call, expected)

    async def malformed_json(self) -> None:
        party = self.parties.any
        url, headers = f"{self.http}/v1/keys/{party.key}/sign", {"x-api-key": party.api_key}
        async with self.session.post(url, data=b'{"data": ', headers=headers) as answer:
            await answer.read()
        self.tally.note("malformed: JSON", str(answer.status), "400")

    async def _ask(self, kind: str, party: Party, method: Callable[..., Any], request: object) -> Any:
        return await self.tally.ended(kind, method(request, metadata=party.wire.metadata, timeout=PATIENCE))

    async def _sign_with(self, party: Party, api_key: str, kind: str, *expected: str) -> None:
        async with Wire(self.server, api_key) as wire:
            await self.tally.ended(kind, party.sign(wire=wire), *expected)

    async def _sign_wrongly(self, kind: str, party: Party, presented: PresentedKey) -> None:
        """On the party's connection, as behind a proxy of their own."""
        request = sign_pb2.SignRequest(key_id=party.key, data=b"x")
        metadata = (("authorization", f"Bearer {presented.text}"),)
        call = party.wire.signing.Sign(request, metadata=metadata, timeout=PATIENCE)
        await self.tally.ended(kind, call, "CREDENTIALS_INVALID")
