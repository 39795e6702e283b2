"""Retries: only what is safe, never longer than the timeout, never sooner than the POP asked for."""

import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from popsigner import Client, Draining, QueueFull, QuotaExceeded, Retry, SignItem, Unavailable, VaultUnavailable
from popsigner.retry import Attempts
from popsigner_server.gen.popsigner.v1 import api_key_pb2, key_pb2, sign_pb2

from .scripted_pop import API_KEY, Context, ScriptedPop, Unary, refuse


def failing(times: int, answer: Message, reason: str = "VAULT_UNAVAILABLE", **details: Any) -> Unary:
    """Refuse so many times, then answer."""
    left = iter(range(times))
    code = grpc.StatusCode.UNAVAILABLE if details.pop("unavailable", True) else grpc.StatusCode.RESOURCE_EXHAUSTED

    async def behaviour(_request: Any, context: Context) -> Message:
        if next(left, None) is not None:
            return await refuse(context, code, reason, **details)
        return answer

    return behaviour


class FakeTime:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def attempts(retry: Retry | None, timeout: float = 10, draw: float = 1.0) -> tuple[Attempts, FakeTime]:
    clock = FakeTime()
    return Attempts(retry, timeout, clock=clock, draw=lambda: draw), clock


def test_pauses_double_up_to_the_ceiling() -> None:
    trial, _clock = attempts(Retry(attempts=6, initial=0.1, ceiling=0.5))

    assert [trial.pause_after(Unavailable("")) for _ in range(5)] == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5])


def test_pauses_are_drawn_at_random_below_their_limit() -> None:
    trial, _clock = attempts(Retry(initial=0.4), draw=0.25)

    assert trial.pause_after(Unavailable("")) == pytest.approx(0.1)


def test_a_call_ends_after_the_last_attempt() -> None:
    trial, _clock = attempts(Retry(attempts=2))
    trial.pause_after(Unavailable("first"))

    with pytest.raises(Unavailable, match="second"):
        trial.pause_after(Unavailable("second"))


def test_a_pause_is_at_least_as_long_as_the_pop_asked_for() -> None:
    trial, _clock = attempts(Retry(initial=0.1))

    assert trial.pause_after(QueueFull("", retry_after=3.0)) == 3.0


def test_a_pause_that_would_outlast_the_timeout_is_not_begun() -> None:
    trial, clock = attempts(Retry(initial=0.1), timeout=10)
    clock.now += 8

    with pytest.raises(QueueFull):
        trial.pause_after(QueueFull("", retry_after=2.0))


def test_the_time_of_all_attempts_is_one_timeout() -> None:
    trial, clock = attempts(Retry(), timeout=10)
    clock.now += 4

    assert trial.remaining() == pytest.approx(6)
    clock.now += 7
    assert trial.remaining() == 0


@pytest.mark.parametrize("error", [QuotaExceeded(""), QueueFull("")])
def test_what_was_refused_for_good_is_not_tried_again(error: Exception) -> None:
    trial, _clock = attempts(Retry())

    with pytest.raises(type(error)):
        trial.pause_after(error)  # type: ignore[arg-type]  # both are PopsignerErrors


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"initial": 0}, {"initial": 2, "ceiling": 1}])
def test_a_retry_policy_without_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Retry needs"):
        Retry(**wrong)


def test_a_read_is_tried_again(client: Client, pop: ScriptedPop) -> None:
    pop.on("KeyService/GetKey", failing(2, key_pb2.GetKeyResponse(key=key_pb2.Key(id="key_1"))))

    assert client.keys.get("production/sequencer").id == "key_1"
    assert len(pop.called("KeyService/GetKey")) == 3


async def test_the_asynchronous_client_tries_again_as_well(async_client: Any, pop: ScriptedPop) -> None:
    pop.on("KeyService/GetKey", failing(2, key_pb2.GetKeyResponse(key=key_pb2.Key(id="key_1"))))

    assert (await async_client.keys.get("production/sequencer")).id == "key_1"
    assert len(pop.called("KeyService/GetKey")) == 3


def test_all_tries_of_a_signature_carry_one_request_id(client: Client, pop: ScriptedPop) -> None:
    pop.on("SignService/Sign", failing(2, sign_pb2.SignResponse(signature=b"s" * 64)))

    signature = client.sign("production/sequencer", b"data")

    ids = {seen.request.request_id for seen in pop.called("SignService/Sign")}
    assert len(pop.called("SignService/Sign")) == 3
    assert ids == {signature.request_id}
    assert 16 <= len(signature.request_id) <= 64


def test_each_item_of_a_batch_keeps_its_request_id(client: Client, pop: ScriptedPop) -> None:
    answer = sign_pb2.BatchSignResponse(signatures=[sign_pb2.SignResult(signature=b"s" * 64)] * 3)
    pop.on("SignService/BatchSign", failing(1, answer))
    items = [SignItem("production/a", b"1"), SignItem("production/a", b"2", request_id="mine"), SignItem("k", b"3")]

    results = client.sign_batch(items)

    first, second = (
        [item.request_id for item in seen.request.requests] for seen in pop.called("SignService/BatchSign")
    )
    assert first == second == [result.unwrap().request_id for result in results]
    assert first[1] == "mine"
    assert len(set(first)) == 3


def test_two_signatures_have_different_request_ids(client: Client, pop: ScriptedPop) -> None:
    pop.answer("SignService/Sign", sign_pb2.SignResponse(signature=b"s" * 64))

    assert client.sign("k", b"data").request_id != client.sign("k", b"data").request_id


def test_without_retries_no_request_id_is_made_up(pop: ScriptedPop) -> None:
    pop.on("SignService/Sign", failing(1, sign_pb2.SignResponse()))

    with Client(api_key=API_KEY, endpoint=pop.endpoint, retry=None) as client, pytest.raises(VaultUnavailable):
        client.sign("production/sequencer", b"data")

    assert [seen.request.request_id for seen in pop.called("SignService/Sign")] == [""]


CHANGES: dict[str, tuple[Callable[[Client], Any], Message]] = {
    "KeyService/CreateKey": (lambda c: c.keys.create(name="a"), key_pb2.CreateKeyResponse()),
    "KeyService/BatchCreateKeys": (lambda c: c.keys.create_batch(names=["a"]), key_pb2.BatchCreateKeysResponse()),
    "KeyService/UpdateKey": (lambda c: c.keys.update("a", name="b"), key_pb2.UpdateKeyResponse()),
    "KeyService/DeleteKey": (lambda c: c.keys.delete("a"), key_pb2.DeleteKeyResponse()),
    "ApiKeyService/CreateApiKey": (lambda c: c.api_keys.create(name="a"), api_key_pb2.CreateApiKeyResponse()),
    "ApiKeyService/RevokeApiKey": (lambda c: c.api_keys.revoke("a"), api_key_pb2.RevokeApiKeyResponse()),
}


@pytest.mark.parametrize("method", CHANGES)
def test_what_changes_something_is_sent_once(client: Client, pop: ScriptedPop, method: str) -> None:
    change, answer = CHANGES[method]
    pop.on(method, failing(1, answer, "DRAINING"))

    with pytest.raises(Draining):
        change(client)

    assert len(pop.called(method)) == 1


def test_a_full_queue_is_waited_for_as_long_as_the_pop_asks(client: Client, pop: ScriptedPop) -> None:
    answer = sign_pb2.SignResponse(signature=b"s" * 64)
    pop.on("SignService/Sign", failing(1, answer, "QUEUE_FULL", unavailable=False, retry_after=0.2))
    began = time.monotonic()

    client.sign("production/sequencer", b"data")

    assert time.monotonic() - began >= 0.2


def test_an_exceeded_quota_is_not_asked_for_again(client: Client, pop: ScriptedPop) -> None:
    pop.on("SignService/Sign", failing(1, sign_pb2.SignResponse(), "QUOTA_EXCEEDED", unavailable=False))

    with pytest.raises(QuotaExceeded):
        client.sign("production/sequencer", b"data")

    assert len(pop.called("SignService/Sign")) == 1


def test_a_call_with_all_its_retries_ends_within_its_timeout(pop: ScriptedPop) -> None:
    pop.on("KeyService/GetKey", failing(1000, key_pb2.GetKeyResponse()))
    patient = Retry(attempts=1000, initial=0.01, ceiling=0.05)
    began = time.monotonic()

    with Client(api_key=API_KEY, endpoint=pop.endpoint, retry=patient) as client, pytest.raises(VaultUnavailable):
        client.keys.get("production/sequencer", timeout=0.5)

    # A thousand attempts would take most of a minute.
    assert time.monotonic() - began < 5
    remaining = [seen.time_remaining for seen in pop.called("KeyService/GetKey")]
    assert len(remaining) > 3
    # Each attempt has what the ones before it left.
    assert remaining[-1] < remaining[0] - 0.3
