import socket
import urllib.error
import urllib.request

import grpc
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from popsigner_server import errors
from popsigner_server.errors import SignerError
from popsigner_server.telemetry.metrics import Metrics, serve_metrics
from popsigner_server.transport.contract import rpcs

SIGN = "/popsigner.v1.SignService/Sign"
OK = grpc.StatusCode.OK.value[0]
NOT_FOUND = grpc.StatusCode.NOT_FOUND.value[0]


def value(metrics: Metrics, name: str, **labels: str) -> float:
    found = metrics.registry.get_sample_value(name, labels)
    assert found is not None, f"{name} {labels} is not there"
    return found


def exposed(metrics: Metrics) -> str:
    return generate_latest(metrics.registry).decode()


def test_an_rpc_is_counted_by_method_and_code_timed_and_shown_while_under_way() -> None:
    metrics = Metrics()
    metrics.rpc_began(SIGN)
    metrics.rpc_began(SIGN)
    assert value(metrics, "popsigner_rpcs_in_flight", method=SIGN) == 2
    metrics.rpc_done(SIGN, OK, 0.004)
    metrics.rpc_done(SIGN, NOT_FOUND, 0.02)
    assert value(metrics, "popsigner_rpcs_in_flight", method=SIGN) == 0
    assert value(metrics, "popsigner_rpcs_total", method=SIGN, code="OK") == 1
    assert value(metrics, "popsigner_rpcs_total", method=SIGN, code="NOT_FOUND") == 1
    assert value(metrics, "popsigner_rpc_duration_seconds_sum", method=SIGN) == pytest.approx(0.024)
    assert value(metrics, "popsigner_rpc_duration_seconds_bucket", method=SIGN, le="0.005") == 1
    assert value(metrics, "popsigner_rpc_duration_seconds_bucket", method=SIGN, le="0.025") == 2


def test_every_rpc_of_the_contract_has_a_label_of_its_own_from_the_start() -> None:
    metrics = Metrics()
    for path in rpcs():
        assert value(metrics, "popsigner_rpcs_in_flight", method=path) == 0


def test_methods_and_codes_that_are_not_in_the_contract_share_one_label() -> None:
    metrics = Metrics()
    for number in range(100):
        metrics.rpc_began(f"/made.up/{number}")
        metrics.rpc_done(f"/made.up/{number}", OK, 0.001)
    metrics.rpc_began(SIGN)
    metrics.rpc_done(SIGN, 99, 0.001)
    assert value(metrics, "popsigner_rpcs_total", method="other", code="OK") == 100
    assert value(metrics, "popsigner_rpcs_total", method=SIGN, code="other") == 1
    assert value(metrics, "popsigner_rpcs_in_flight", method="other") == 0
    assert "made.up" not in exposed(metrics)


def test_signatures_are_counted_as_released_or_refused_by_reason() -> None:
    metrics = Metrics()
    metrics.batch(5)
    metrics.released(3)
    metrics.refused(errors.KeyDeleted.reason, 1)
    metrics.refused("whatever the caller sent", 1)
    assert value(metrics, "popsigner_signatures_released_total") == 3
    assert value(metrics, "popsigner_signatures_refused_total", reason="KEY_DELETED") == 1
    assert value(metrics, "popsigner_signatures_refused_total", reason="other") == 1
    assert value(metrics, "popsigner_batch_items_bucket", le="4.0") == 0
    assert value(metrics, "popsigner_batch_items_bucket", le="8.0") == 1
    assert "whatever" not in exposed(metrics)


def test_every_reason_of_the_service_is_a_label_of_its_own() -> None:
    metrics = Metrics()
    for kind in SignerError.__subclasses__():
        metrics.refused(kind.reason, 1)
        assert value(metrics, "popsigner_signatures_refused_total", reason=kind.reason) == 1


def test_a_failed_batch_is_counted_by_its_reason_and_never_by_its_text() -> None:
    metrics = Metrics()
    metrics.failed(errors.VaultUnavailable("a sentence"))
    metrics.failed(RuntimeError("a secret"))
    assert value(metrics, "popsigner_batches_failed_total", reason="VAULT_UNAVAILABLE") == 1
    assert value(metrics, "popsigner_batches_failed_total", reason="other") == 1
    assert "secret" not in exposed(metrics)


def test_trips_commits_and_argon2_are_timed() -> None:
    metrics = Metrics()
    metrics.vault_trip(0.003)
    metrics.ledger_commit(0.002)
    metrics.argon2_verified(0.04)
    assert value(metrics, "popsigner_vault_trip_duration_seconds_sum") == 0.003
    assert value(metrics, "popsigner_ledger_commit_duration_seconds_sum") == 0.002
    assert value(metrics, "popsigner_argon2_verification_duration_seconds_count") == 1


def test_the_queue_and_the_api_key_cache_are_read_at_the_scrape() -> None:
    metrics = Metrics()
    counts = {"queue": 0, "hits": 0, "misses": 0}
    metrics.watch_queue(lambda: counts["queue"])
    metrics.watch_api_key_cache(hits=lambda: counts["hits"], misses=lambda: counts["misses"])
    counts.update(queue=7, hits=40, misses=2)
    assert value(metrics, "popsigner_queue_items") == 7
    assert value(metrics, "popsigner_api_key_cache_lookups_total", result="hit") == 40
    assert value(metrics, "popsigner_api_key_cache_lookups_total", result="miss") == 2


def test_calls_that_wait_are_told_apart_at_the_scrape() -> None:
    metrics = Metrics()
    waiting = {"read": 0, "change": 0}
    metrics.watch_calls_waiting(read=lambda: waiting["read"], change=lambda: waiting["change"])
    waiting.update(read=18, change=3)
    assert value(metrics, "popsigner_calls_waiting", kind="read") == 18
    assert value(metrics, "popsigner_calls_waiting", kind="change") == 3


def test_the_build_is_named() -> None:
    assert 'popsigner_build_info{python="3.' in exposed(Metrics())


def test_two_sets_of_metrics_do_not_share_counts() -> None:
    first, second = Metrics(), Metrics()
    first.released(1)
    assert value(second, "popsigner_signatures_released_total") == 0


def test_names_and_types_follow_the_conventions() -> None:
    metrics = Metrics()
    metrics.watch_api_key_cache(hits=lambda: 1, misses=lambda: 1)
    families = [f for f in text_string_to_metric_families(exposed(metrics)) if f.name.startswith("popsigner_")]
    assert len(families) > 10
    for family in families:
        assert family.documentation
        for sample in family.samples:
            if family.type == "counter":
                assert sample.name.endswith("_total")
        if "duration" in family.name:
            assert family.name.endswith("_seconds")


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        chosen: int = free.getsockname()[1]
    return chosen


def test_metrics_are_served_until_closed_and_then_the_port_is_free(port: int) -> None:
    metrics = Metrics()
    metrics.released(12)
    close = serve_metrics(f"127.0.0.1:{port}", metrics)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            assert answer.headers["content-type"].startswith("text/plain; version=")
            assert b"popsigner_signatures_released_total 12.0" in answer.read()
    finally:
        close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5)
    serve_metrics(f"127.0.0.1:{port}", metrics)()


def test_an_address_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match=f"cannot serve metrics on {address}"):
            serve_metrics(address, Metrics())


@pytest.mark.parametrize("address", ["", "9464", ":9464", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1"])
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        serve_metrics(address, Metrics())


def test_off_serves_nothing() -> None:
    serve_metrics("off", Metrics())()
