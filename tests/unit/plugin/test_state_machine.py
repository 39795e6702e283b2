"""One key under random moves by concurrent callers: nothing is lost, and nothing signs that must not."""

import asyncio
import base64
from typing import Any

import ecdsa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from popsigner_plugin.errors import EngineError
from tests.unit.plugin.engines import DIGEST, answered, asked, batch, bring_in, engine_on, sign, with_wrapping_key
from tests.unit.plugin.outside import AgeIdentity
from tests.unit.plugin.storage import MemoryStorage

SCALARS = [bytes((number,)) * 32 for number in (3, 7)]
IDENTITY = AgeIdentity.made()
MOVES = st.one_of(
    st.just(("rotate", {})),
    st.builds(lambda number: ("rotate", {"to_version": number}), st.integers(1, 5)),
    st.builds(lambda number: ("config", {"min_signing_version": number}), st.integers(1, 5)),
    st.builds(lambda flag: ("config", {"enabled": flag}), st.booleans()),
    st.builds(lambda flag: ("config", {"deletion_allowed": flag}), st.booleans()),
    st.builds(lambda number: ("sign", {"version": number}), st.integers(0, 5)),
    st.builds(lambda number: ("batch", {"version": number}), st.integers(0, 5)),
    st.builds(lambda scalar: ("import", {"scalar": scalar}), st.sampled_from(SCALARS)),
    st.sampled_from(["create", "delete", "recover", "forget", "recovery", "export"]).map(lambda move: (move, {})),
)


class OneKey(RuleBasedStateMachine):
    """Groups of moves that run at once; after each group storage is compared with what the callers were told."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.storage = with_wrapping_key()
        self.engine = engine_on(self.storage)
        # What callers were told since the last delete that was answered: version -> public key.
        self.told: dict[str, str] = {}

    def teardown(self) -> None:
        self.engine.close()
        self.runner.close()

    @rule(moves=st.lists(MOVES, min_size=1, max_size=6))
    def move_at_once(self, moves: list[tuple[str, dict[str, Any]]]) -> None:
        self.runner.run(self._moved(moves))

    @rule()
    def kill(self) -> None:
        self.engine.close()
        self.engine = engine_on(self.storage)

    @rule(number=st.integers(0, 5))
    @precondition(lambda self: self._state() is not None)
    def sign_alone(self, number: int) -> None:
        state = self._state()
        assert state is not None
        allowed = state["enabled"] and (
            number == 0 or state["min_signing_version"] <= number <= state["latest_version"]
        )
        signed = self.runner.run(self._batched(number))
        assert signed == allowed
        try:
            answer = self.runner.run(sign(self.engine, "k", number))
        except EngineError:
            assert not allowed
        else:
            assert allowed
            self._genuine(answer)

    @rule()
    def disable_and_sign_at_once(self) -> None:
        if self._state() is not None:
            self.runner.run(self._disabled())

    @invariant()
    def no_version_is_lost(self) -> None:
        state = self._state()
        if self.told:
            assert state is not None
            assert self.told.items() <= {n: v["public_key"] for n, v in state["versions"].items()}.items()

    @invariant()
    def the_state_is_one_that_can_be(self) -> None:
        state = self._state()
        if state is not None:
            assert list(state["versions"]) == [str(number + 1) for number in range(state["latest_version"])]
            assert 1 <= state["min_signing_version"] <= state["latest_version"]

    @invariant()
    def nothing_is_left_of_a_key_that_is_gone(self) -> None:
        if self._state() is None:
            assert list(self.storage.blobs) == ["wrapping/keys"]

    async def _moved(self, moves: list[tuple[str, dict[str, Any]]]) -> None:
        results = await asyncio.gather(*(self._move(name, data) for name, data in moves), return_exceptions=True)
        for result in results:
            assert not isinstance(result, BaseException) or isinstance(result, EngineError), repr(result)
        told = [result["versions"] for result in results if isinstance(result, dict) and "latest_version" in result]
        if any(name == "delete" and result is None for (name, _), result in zip(moves, results, strict=True)):
            # Who was told before the delete and who after it cannot be seen from here.
            state = await self._read()
            self.told = {n: v["public_key"] for n, v in state["versions"].items()} if state else {}
        else:
            for versions in told:
                for number, version in versions.items():
                    assert self.told.setdefault(number, version["public_key"]) == version["public_key"]

    async def _move(self, name: str, data: dict[str, Any]) -> dict[str, Any] | None:
        match name:
            case "create":
                return await asked(self.engine, "keys/k", deletion_allowed=True, exportable=True)
            case "import":
                return await bring_in(self.engine, "k", data["scalar"], deletion_allowed=True, exportable=True)
            case "rotate" | "config":
                return await asked(self.engine, f"keys/k/{name}", **data)
            case "delete":
                return await self.engine.handle("delete", "keys/k", {})
            case "recover":
                return await asked(self.engine, "recovery/k", recipient=IDENTITY.recipient)
            case "forget":
                return await self.engine.handle("delete", "recovery/k", {}) or {}
            case "recovery":
                copies = await answered(self.engine, "read", "recovery/k")
                for copy in copies["versions"].values():
                    assert copy["public_key"].encode() in IDENTITY.read(base64.b64decode(copy["ciphertext"]))
                return {}
            case "export":
                return {"exported": await asked(self.engine, "export/k", recipient=IDENTITY.recipient)}
            case "sign":
                self._genuine(await sign(self.engine, "k", data["version"]))
                return {}
            case _:
                await self._batched(data["version"])
                return {}

    async def _batched(self, number: int) -> bool:
        return bool((await batch(self.engine, "k", version=number)).signatures[0])

    async def _disabled(self) -> None:
        async def keep_signing(until: asyncio.Event) -> None:
            while not until.is_set():
                await self._batched(0)
                await asyncio.sleep(0)

        answered_ = asyncio.Event()
        signing = [asyncio.create_task(keep_signing(answered_)) for _ in range(3)]
        await asked(self.engine, "keys/k/config", enabled=False)
        # From the answer on, also while requests from before it are on their way.
        assert not await self._batched(0)
        answered_.set()
        await asyncio.gather(*signing)
        assert not await self._batched(0)

    def _genuine(self, answer: dict[str, Any]) -> None:
        key = ecdsa.VerifyingKey.from_string(bytes.fromhex(answer["public_key"]), ecdsa.SECP256k1)
        assert key.verify_digest(base64.b64decode(answer["signature"]), base64.b64decode(DIGEST))

    def _state(self) -> dict[str, Any] | None:
        """What storage has, read by an engine that remembers nothing."""
        return self.runner.run(self._read())

    async def _read(self) -> dict[str, Any] | None:
        fresh = engine_on(MemoryStorage(self.storage.blobs))
        try:
            return await answered(fresh, "read", "keys/k")
        except EngineError:
            return None
        finally:
            fresh.close()


TestOneKey = OneKey.TestCase
TestOneKey.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
