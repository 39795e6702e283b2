"""What the operator does with the POP's own identity providers, as lines of JSON."""

import json

from popsigner_server.domain.ids import Prefix, parse, show
from popsigner_server.errors import SignerError
from popsigner_server.identity.issuers import Kind, Wanted
from popsigner_server.identity.providers import Provider, add_provider, own_providers, remove_provider
from popsigner_server.identity.sealing import Sealing
from popsigner_server.storage.engine import Database


async def add(
    database: Database, sealing_key: str, *, kind: str, name: str, issuer: str, client_id: str, client_secret: str
) -> str:
    """Add one. Raises ValueError with a sentence."""
    if kind not in set(Kind):
        raise ValueError(f"--kind must be one of {', '.join(Kind)}.")
    sealing = Sealing.of(sealing_key)
    try:
        wanted = Wanted.of(Kind(kind), name=name, issuer=issuer, client_id=client_id, client_secret=client_secret)
        return _line(await add_provider(database, sealing, wanted))
    except SignerError as error:
        raise ValueError(error.detail) from error


async def lines(database: Database) -> list[str]:
    """Each of them."""
    return [_line(provider) for provider in await own_providers(database)]


async def remove(database: Database, provider: str) -> str:
    """Disconnect one. Raises ValueError with a sentence."""
    try:
        ended = await remove_provider(database, parse(Prefix.IDENTITY_PROVIDER, provider))
    except ValueError as error:
        raise ValueError(f"--provider {error}") from error
    except SignerError as error:
        raise ValueError(error.detail) from error
    return json.dumps({"provider": provider, "sessions_ended": ended})


def _line(provider: Provider) -> str:
    line = {
        "provider": show(Prefix.IDENTITY_PROVIDER, provider.id),
        "kind": provider.kind.value,
        "name": provider.name,
        "issuer": provider.issuer,
        "client_id": provider.client_id,
        "created_at": provider.created_at.isoformat(),
    }
    return json.dumps(line, ensure_ascii=False)
