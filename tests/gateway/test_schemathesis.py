"""Schemathesis drives a whole POP by its own document."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import checks

import popsigner_gateway
from tests.support.pop import Pop


@pytest.fixture(scope="module")
def pop() -> Iterator[Pop]:
    with Pop.started() as running:
        yield running


api = schemathesis.openapi.from_path(Path(popsigner_gateway.__file__).with_name("openapi.json"))
# Every answer has to be one that the document describes. What else schemathesis checks is not so here: another method
# is 404 and not 405, and proto3 JSON takes null for an absent member, numbers for enums, and strings for numbers.
CHECKS: list[Any] = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


@api.parametrize()
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_that_the_document_describes(case: schemathesis.Case[Any], pop: Pop) -> None:
    answer = case.call(base_url=pop.http, timeout=60, headers={"authorization": f"Bearer {pop.api_key}"})
    case.validate_response(answer, checks=CHECKS)
    if answer.status_code >= 400:
        assert answer.json()["details"][0]["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"


def test_afterwards_the_pop_still_serves(pop: Pop) -> None:
    assert requests.get(f"{pop.http}/healthz", timeout=5).status_code == 200
