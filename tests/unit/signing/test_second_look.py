"""A batch in which one item has to be looked up again: what fails from there on fails that item alone."""

import hashlib
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from uuid import UUID

import pytest

from popsigner_server import errors
from popsigner_server.domain.digests import HashAlgorithm
from popsigner_server.domain.keys import KeyState
from popsigner_server.domain.principals import ActorKind, Bounds, Caller, Principal, Role
from popsigner_server.domain.signatures import SignatureFormat
from popsigner_server.errors import SignerError
from popsigner_server.signing import Ask, Order, Outcome, Signature, SigningKey
from popsigner_server.signing.signer import Signer
from popsigner_server.telemetry.traces import open_tracer

ORGANIZATION = UUID(int=1)
IDS = {"first": UUID(int=11), "rotated": UUID(int=12), "moved": UUID(int=13), "last": UUID(int=14)}
CALLER = Caller(
    principal=Principal(
        organization_id=ORGANIZATION,
        actor_id=UUID(int=2),
        actor_kind=ActorKind.API_KEY,
        plan="self-hosted",
        scopes=frozenset(),
        role=Role.UNSPECIFIED,
        expires_at=None,
    ),
    ip_address=None,
    user_agent=None,
)


def key(name: str, version: int) -> SigningKey:
    return SigningKey(
        id=IDS[name],
        vault_name=IDS[name].hex,
        version=version,
        public_key="02" * 33,
        namespace_id=UUID(int=3),
    )


def ask(name: str, version: int = 0) -> Ask:
    return Ask(
        key=name,
        data=name.encode(),
        prehashed=False,
        hash=HashAlgorithm.SHA256,
        format=SignatureFormat.DER,
        sign_mode=None,
        request_id=None,
        version=version,
    )


@dataclass
class Catalogue:
    """A cache that knows version 1 of everything, and a database that answers as it is told, with version 2 where it is
    not."""

    told: dict[str, KeyState | SignerError] = field(default_factory=dict)
    looked_up: list[str] = field(default_factory=list)

    def cached(
        self, organization_id: UUID, reference: str, version: int, bounds: Bounds
    ) -> tuple[SigningKey, KeyState] | None:
        assert organization_id == ORGANIZATION
        return key(reference, version or 1), KeyState.ENABLED

    async def find(
        self, organization_id: UUID, reference: str, version: int, bounds: Bounds
    ) -> tuple[SigningKey, KeyState]:
        assert organization_id == ORGANIZATION
        self.looked_up.append(reference)
        answer = self.told.get(reference, KeyState.ENABLED)
        if isinstance(answer, SignerError):
            raise answer
        return key(reference, version or 2), answer


@dataclass
class Gate:
    """Refuses version 1 of keys that have moved on, and whole orders after the first one where it is told to."""

    moved_on: frozenset[str]
    second: SignerError | None = None
    orders: list[Order] = field(default_factory=list)

    def check_room(self, organization: UUID, items: int) -> None: ...

    def hashing(self, organization: UUID, size: int) -> AbstractContextManager[None]:
        return nullcontext()

    async def submit(self, order: Order) -> list[bytes | SignerError]:
        self.orders.append(order)
        if len(self.orders) > 1 and self.second is not None:
            raise self.second
        gone = {IDS[name] for name in self.moved_on}
        return [
            errors.KeyVersionUnavailable()
            if key.id in gone and key.version == 1
            else order.digests[32 * i : 32 * i + 32]
            for i, key in enumerate(order.keys)
        ]


async def sign(catalogue: Catalogue, gate: Gate, asks: list[Ask]) -> list[Outcome]:
    return await Signer(catalogue, gate, open_tracer(None)).sign(CALLER, asks, None)


def assert_signed(outcome: Outcome, name: str, version: int) -> None:
    assert isinstance(outcome, Signature), outcome
    assert (outcome.key.id, outcome.key.version) == (IDS[name], version)
    # Each has the signature of its own message, whichever order it went in.
    assert outcome.value == hashlib.sha256(name.encode()).digest()


BATCH = ["first", "rotated", "moved", "last"]


async def test_what_was_rotated_meanwhile_is_signed_with_its_new_version() -> None:
    catalogue, gate = Catalogue(), Gate(frozenset({"rotated", "moved"}))
    outcomes = await sign(catalogue, gate, [ask(name) for name in BATCH])
    for name, version, outcome in zip(BATCH, [1, 2, 2, 1], outcomes, strict=True):
        assert_signed(outcome, name, version)
    assert catalogue.looked_up == ["rotated", "moved"]
    assert [len(order) for order in gate.orders] == [4, 2]


@pytest.mark.parametrize(
    ("told", "refusal"),
    [
        (errors.KeyNotFound(), errors.KeyNotFound),
        (errors.KeyVersionUnavailable(), errors.KeyVersionUnavailable),
        (errors.LedgerUnavailable(), errors.LedgerUnavailable),
        (KeyState.DISABLED, errors.KeyDisabled),
        (KeyState.DELETED, errors.KeyDeleted),
    ],
    ids=lambda value: getattr(value, "name", type(value).__name__),
)
async def test_a_second_look_up_that_fails_fails_its_item_alone(
    told: KeyState | SignerError, refusal: type[SignerError]
) -> None:
    """Also of two items that are looked up again the one does not fail with the other."""
    gate = Gate(frozenset({"rotated", "moved"}))
    outcomes = await sign(Catalogue({"rotated": told}), gate, [ask(name) for name in BATCH])
    assert type(outcomes[1]) is refusal
    for i, version in ((0, 1), (2, 2), (3, 1)):
        assert_signed(outcomes[i], BATCH[i], version)
    # A key that may not sign goes nowhere near the vault again.
    assert [[key.id for key in order.keys] for order in gate.orders[1:]] == [[IDS["moved"]]]


async def test_nothing_is_submitted_again_where_every_second_look_up_failed() -> None:
    gate = Gate(frozenset({"rotated"}))
    outcomes = await sign(Catalogue({"rotated": errors.KeyNotFound()}), gate, [ask(name) for name in BATCH])
    assert [type(outcome) for outcome in outcomes] == [Signature, errors.KeyNotFound, Signature, Signature]
    assert len(gate.orders) == 1


@pytest.mark.parametrize(
    "failure",
    [
        errors.LedgerUnavailable(),
        errors.VaultUnavailable(),
        errors.QueueFull(retry_after=1.0),
        errors.DeadlinePassed(),
        errors.Draining(),
    ],
    ids=lambda failure: type(failure).__name__,
)
async def test_a_second_submission_that_fails_fails_its_items_alone(failure: SignerError) -> None:
    """The first is committed and counted: its signatures are their callers' whatever comes after."""
    gate = Gate(frozenset({"rotated", "moved"}), second=failure)
    outcomes = await sign(Catalogue(), gate, [ask(name) for name in BATCH])
    assert outcomes[1] is failure
    assert outcomes[2] is failure
    assert_signed(outcomes[0], "first", 1)
    assert_signed(outcomes[3], "last", 1)


async def test_who_names_the_version_gets_no_second_look() -> None:
    catalogue, gate = Catalogue(), Gate(frozenset({"rotated"}))
    (outcome,) = await sign(catalogue, gate, [ask("rotated", 1)])
    assert isinstance(outcome, errors.KeyVersionUnavailable)
    assert (catalogue.looked_up, len(gate.orders)) == ([], 1)


async def test_a_second_look_is_the_last() -> None:
    """Where it is refused once more, the refusal is the answer: no caller makes the server go round and round."""

    class Stuck(Gate):
        async def submit(self, order: Order) -> list[bytes | SignerError]:
            self.orders.append(order)
            return [errors.KeyVersionUnavailable() for _ in order.keys]

    catalogue, gate = Catalogue(), Stuck(frozenset())
    (outcome,) = await sign(catalogue, gate, [ask("rotated")])
    assert isinstance(outcome, errors.KeyVersionUnavailable)
    assert (catalogue.looked_up, len(gate.orders)) == (["rotated"], 2)
