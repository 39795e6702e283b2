"""Whether one more call is within the limits of its caller and of its organization."""

from typing import Protocol
from uuid import UUID

from popsigner_server import errors
from popsigner_server.domain.plans import Plans
from popsigner_server.domain.principals import Person, Principal
from popsigner_server.limits import Limiter, StoreAway

# Seconds. The window is one: after it there is room, whoever called.
WAIT = 1.0


class Observer(Protocol):
    """What the limits tell telemetry."""

    def rate_limited(self, limit: str) -> None: ...

    def rate_unlimited(self) -> None: ...


class CallLimits:
    """The limit of each API key or session (`caller_rate`, None for none), and of each organization by its plan."""

    def __init__(self, limiter: Limiter, plans: Plans, *, caller_rate: int | None, observer: Observer) -> None:
        self._limiter = limiter
        self._plans = plans
        self._caller_rate = caller_rate
        self._observer = observer

    async def admit(self, principal: Principal | None, person: Person | None) -> None:
        """Count one call; a person may have named no organization. Raises RateLimited."""
        if self._caller_rate is not None:
            caller = _caller(principal, person)
            # Before the organization: what a caller asks too often costs its colleagues nothing.
            if caller is not None and not await self._passes(caller, self._caller_rate):
                self._observer.rate_limited("caller")
                raise errors.RateLimited(
                    f"An API key or session may make {self._caller_rate} calls a second here; slow down and retry.",
                    retry_after=WAIT,
                )
        if principal is None:
            return
        rate = self._plans.of(principal.plan).requests_per_second
        if rate is not None and not await self._passes(principal.organization_id, rate):
            self._observer.rate_limited("organization")
            raise errors.RateLimited(
                f"The organization's plan {principal.plan} includes {rate} calls a second; slow down and retry.",
                retry_after=WAIT,
            )

    async def _passes(self, subject: UUID, rate: int) -> bool:
        try:
            return await self._limiter.take(subject, rate)
        except StoreAway:
            self._observer.rate_unlimited()
            return True  # The store is away: the call is let through. A limit is for fairness; signing goes on.

    async def close(self) -> None:
        """Give the limiter's store back."""
        await self._limiter.close()


def _caller(principal: Principal | None, person: Person | None) -> UUID | None:
    """The API key or the session that is counted."""
    if person is not None:
        return person.session_id
    return None if principal is None else principal.session_id or principal.actor_id
