"""Where people come in: sessions, tokens, identity providers, log-ins and devices, over one database and one clock."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Self
from uuid import UUID

from popsigner_server.identity.devices import Devices, sweep_devices
from popsigner_server.identity.logins import Invited, Logins, sweep_logins
from popsigner_server.identity.people import People
from popsigner_server.identity.providers import Providers
from popsigner_server.identity.sealing import Sealing
from popsigner_server.identity.session_rows import sweep_sessions
from popsigner_server.identity.sessions import Sessions
from popsigner_server.identity.token_keys import TokenKeys
from popsigner_server.identity.tokens import Tokens
from popsigner_server.identity.visitors import Visitors
from popsigner_server.ledger.changes import Ledger
from popsigner_server.storage.engine import Database
from popsigner_server.storage.notices import ORGANIZATION_CHANGED, USER_CHANGED


@dataclass(frozen=True, slots=True, kw_only=True)
class Reception:
    """The identity's rooms of people."""

    database: Database
    tokens: Tokens
    visitors: Visitors
    sessions: Sessions
    providers: Providers
    logins: Logins
    devices: Devices

    @classmethod
    def opened(
        cls,
        database: Database,
        ledger: Ledger,
        sealing: Sealing,
        *,
        invited: Invited,
        sign_up: bool,
        clock: Callable[[], datetime],
    ) -> Self:
        """`clock` is the time of day, with its zone; see logins.Logins for `invited` and `sign_up`."""
        tokens = Tokens(TokenKeys(database, sealing, clock=clock), clock=clock)
        sessions = Sessions(database, ledger, tokens)
        return cls(
            database=database,
            tokens=tokens,
            visitors=Visitors(tokens, People(database), clock=clock, timer=time.monotonic),
            sessions=sessions,
            providers=Providers(database, ledger, sealing),
            logins=Logins(database, sessions, invited=invited, sign_up=sign_up),
            devices=Devices(database, sessions),
        )

    def heard(self) -> dict[str, Callable[[UUID], None]]:
        """What to do at the notices of other processes."""
        return {
            USER_CHANGED: self.visitors.forget_user,
            ORGANIZATION_CHANGED: self.visitors.forget_organization,
        }

    async def sweep(self) -> None:
        """Forget what is over."""
        await sweep_sessions(self.database)
        await sweep_logins(self.database)
        await sweep_devices(self.database)
