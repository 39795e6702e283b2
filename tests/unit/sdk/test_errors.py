"""Typed errors: every reason of the contract has its class, and arrives as it."""

import re
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

import popsigner
from popsigner import Client, errors
from popsigner.gen.popsigner.v1 import ErrorReason, ItemError
from popsigner.status import error_of_item
from popsigner_server.gen.popsigner.v1 import errors_pb2

from .scripted_pop import API_KEY, Context, ScriptedPop, refuse

CONTRACT = Path(__file__).parents[3] / "proto" / "popsigner" / "v1" / "errors.proto"
REASONS = [reason.name for reason in ErrorReason if reason]


def class_name(reason: str) -> str:
    return "".join(word.capitalize() for word in reason.split("_"))


def test_the_reasons_are_those_of_the_contract() -> None:
    assert len(REASONS) > 35
    assert set(REASONS) == set(errors_pb2.ErrorReason.keys()) - {"ERROR_REASON_UNSPECIFIED"}


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_of_the_contract_has_a_public_class_below_a_family(reason: str) -> None:
    found = errors.error_class(reason, grpc.StatusCode.UNKNOWN)

    assert found.__name__ == class_name(reason)
    assert found.default_reason == reason
    assert getattr(popsigner, found.__name__) is found
    family = found.__mro__[1]
    assert family is not errors.PopsignerError
    assert family.default_code is found.default_code


@pytest.mark.parametrize("reason", REASONS)
def test_every_class_has_the_code_that_the_contract_names_for_its_reason(reason: str) -> None:
    documented = re.search(rf"// ([A-Z_]+)[:,][^=]*\n  {reason} = \d+;", CONTRACT.read_text())

    assert documented
    assert errors.error_class(reason, grpc.StatusCode.UNKNOWN).default_code.name == documented[1]


@pytest.mark.parametrize("reason", REASONS)
def test_a_refused_item_carries_the_class_of_its_reason(reason: str) -> None:
    expected = errors.error_class(reason, grpc.StatusCode.UNKNOWN)

    item = error_of_item(ItemError(code=expected.default_code.value[0], reason=ErrorReason[reason], message="why"))

    assert type(item) is expected
    assert (item.reason, item.code, item.message) == (reason, expected.default_code, "why")


@pytest.mark.parametrize("reason", REASONS)
def test_a_refused_call_raises_the_class_of_its_reason(client: Client, pop: ScriptedPop, reason: str) -> None:
    expected = errors.error_class(reason, grpc.StatusCode.UNKNOWN)

    async def behaviour(_request: Any, context: Context) -> Message:
        return await refuse(context, expected.default_code, reason, "what is wrong, and what to do")

    pop.on("KeyService/CreateKey", behaviour)

    with pytest.raises(errors.PopsignerError) as caught:
        client.keys.create(name="sequencer")

    assert type(caught.value) is expected
    assert caught.value.reason == reason
    assert caught.value.code is expected.default_code
    assert str(caught.value) == caught.value.message == "what is wrong, and what to do"


def test_details_arrive_with_the_error(client: Client, pop: ScriptedPop) -> None:
    async def behaviour(_request: Any, context: Context) -> Message:
        return await refuse(
            context,
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_FIELD",
            retry_after=1.5,
            violations=[("name", "is too long")],
        )

    pop.on("KeyService/CreateKey", behaviour)

    with pytest.raises(errors.InvalidField) as caught:
        client.keys.create(name="x" * 101)

    assert caught.value.violations == (errors.Violation("name", "is too long"),)
    assert caught.value.retry_after == 1.5


def test_a_reason_of_a_newer_pop_arrives_as_its_family(client: Client, pop: ScriptedPop) -> None:
    async def behaviour(_request: Any, context: Context) -> Message:
        return await refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "KEY_ON_HOLIDAY")

    pop.on("KeyService/GetKey", behaviour)

    with pytest.raises(errors.PreconditionFailed) as caught:
        client.keys.get("production/sequencer")

    assert caught.value.reason == "KEY_ON_HOLIDAY"


def test_a_reason_of_another_domain_is_not_taken_for_one_of_popsigner(client: Client, pop: ScriptedPop) -> None:
    async def behaviour(_request: Any, context: Context) -> Message:
        return await refuse(context, grpc.StatusCode.PERMISSION_DENIED, "API_KEY_REVOKED", domain="example.com")

    pop.on("KeyService/GetKey", behaviour)

    with pytest.raises(errors.NotPermitted) as caught:
        client.keys.get("production/sequencer")

    assert caught.value.reason == ""


def test_a_status_without_details_raises_the_family_of_its_code(client: Client, pop: ScriptedPop) -> None:
    async def behaviour(_request: Any, context: Context) -> Message:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no")
        raise AssertionError("abort raises")

    pop.on("KeyService/GetKey", behaviour)

    with pytest.raises(errors.NotAuthenticated, match=r"^no$"):
        client.keys.get("production/sequencer")


def test_a_pop_that_does_not_run_is_named_in_the_error() -> None:
    with (
        Client(api_key=API_KEY, endpoint="127.0.0.1:1", retry=None) as client,
        pytest.raises(errors.Unavailable, match=r"127\.0\.0\.1:1 cannot be reached") as caught,
    ):
        client.usage()

    assert caught.value.retryable
    assert API_KEY not in f"{caught.value!r} {caught.value.__context__!r}"


def test_an_unknown_reason_of_an_item_keeps_its_number() -> None:
    error = error_of_item(ItemError(code=5, reason=ErrorReason(4711), message="gone"))

    assert type(error) is errors.NotFound
    assert error.reason == "ERROR_REASON_4711"
