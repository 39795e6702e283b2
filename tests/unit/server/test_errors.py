"""The reasons in the code and in the contract are the same, and each has its code."""

import pytest
from google.rpc import error_details_pb2

from popsigner_server import errors
from popsigner_server.errors import Kind, SignerError
from popsigner_server.gen.popsigner.v1.errors_pb2 import ErrorReason
from popsigner_server.transport.interceptors.errors import CODES, to_status

# Refusals that the gateway speaks before a server hears of the request.
GATEWAY = {"RATE_LIMITED", "REQUEST_TOO_LARGE", "SERVER_UNAVAILABLE"}
KINDS = SignerError.__subclasses__()


def test_every_reason_of_the_contract_has_its_class_and_none_has_two() -> None:
    reasons = [kind.reason for kind in KINDS]
    assert len(set(reasons)) == len(reasons)
    assert set(reasons) | GATEWAY == set(ErrorReason.keys()) - {"ERROR_REASON_UNSPECIFIED"}


def test_every_kind_has_a_code_of_its_own() -> None:
    assert set(CODES) == set(Kind)
    assert len(set(CODES.values())) == len(CODES)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "sentence" in vars(kind)])
def test_every_failure_says_one_sentence(kind: type[SignerError]) -> None:
    assert kind().detail.endswith(".")


def test_a_status_carries_reason_fields_quota_and_delay() -> None:
    status = to_status(errors.InvalidField("name", "must not be empty."))
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("INVALID_FIELD", "popsigner.com")
    assert status.details[1].Unpack(bad)
    assert bad.field_violations[0].field == "name"

    quota = error_details_pb2.QuotaFailure()
    assert to_status(errors.QuotaExceeded(quota="signatures")).details[1].Unpack(quota)
    assert quota.violations[0].subject == "signatures"

    retry = error_details_pb2.RetryInfo()
    assert to_status(errors.QueueFull(retry_after=1.5)).details[1].Unpack(retry)
    assert (retry.retry_delay.seconds, retry.retry_delay.nanos) == (1, 500_000_000)
