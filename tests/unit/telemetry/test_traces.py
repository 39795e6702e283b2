import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from popsigner_server.telemetry.traces import open_tracer
from tests.support.collector import Collector

SIGN = "/popsigner.v1.SignService/Sign"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"
SAMPLED = (("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-01"), ("authorization", "Bearer psk_live_secret"))
NOT_SAMPLED = (("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-00"),)
OK = grpc.StatusCode.OK.value[0]
NOT_FOUND = grpc.StatusCode.NOT_FOUND.value[0]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector.started() as collector:
        yield collector


def attributes(span: Span) -> dict[str, str | int]:
    return {
        pair.key: pair.value.string_value if pair.value.HasField("string_value") else pair.value.int_value
        for pair in span.attributes
    }


def test_without_an_endpoint_nothing_of_opentelemetry_is_imported() -> None:
    program = (
        "import sys\n"
        "from popsigner_server.telemetry.traces import open_tracer\n"
        "tracer = open_tracer(None)\n"
        "with tracer.rpc('/a/b', ()) as span: span.finish(0)\n"
        "assert tracer.link() is None\n"
        "with tracer.step('vault.sign', items=1, links=[]): pass\n"
        "tracer.close()\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_span_that_goes_nowhere_lets_exceptions_through() -> None:
    with pytest.raises(LookupError), open_tracer(None).rpc(SIGN, ()):
        raise LookupError


def test_an_rpc_arrives_at_the_collector_below_its_callers_span(collector: Collector) -> None:
    tracer = open_tracer(collector.endpoint)
    with tracer.rpc(SIGN, SAMPLED) as span:
        span.finish(OK)
    tracer.close()
    arrived = collector.spans["popsigner.v1.SignService/Sign"]
    assert arrived.kind == Span.SPAN_KIND_SERVER
    assert arrived.trace_id.hex() == TRACE_ID
    assert arrived.parent_span_id.hex() == PARENT_ID
    assert arrived.status.code == Status.STATUS_CODE_UNSET
    assert arrived.end_time_unix_nano > arrived.start_time_unix_nano
    assert attributes(arrived) == {
        "rpc.system.name": "grpc",
        "rpc.method": "popsigner.v1.SignService/Sign",
        "rpc.response.status_code": "OK",
    }
    named = {pair.key: pair.value.string_value for pair in collector.resource.attributes}
    assert named["service.name"] == "popsigner-server"
    assert named["service.version"]


def test_an_rpc_without_a_traceparent_or_with_a_broken_one_begins_a_trace(collector: Collector) -> None:
    tracer = open_tracer(collector.endpoint)
    with tracer.rpc("/a/First", ()) as span:
        span.finish(OK)
    with tracer.rpc("/a/Second", (("traceparent", "00-zz-zz-01"), ("traceparent-bin", b"\x00"))) as span:
        span.finish(OK)
    tracer.close()
    first, second = collector.spans["a/First"], collector.spans["a/Second"]
    assert first.parent_span_id == second.parent_span_id == b""
    assert first.trace_id != second.trace_id


def test_an_aborted_rpc_is_an_error_by_the_name_of_its_code(collector: Collector) -> None:
    tracer = open_tracer(collector.endpoint)
    with suppress(grpc.aio.AbortError), tracer.rpc(SIGN, ()) as span:
        span.finish(NOT_FOUND)
        raise grpc.aio.AbortError
    tracer.close()
    arrived = collector.spans[SIGN[1:]]
    assert arrived.status.code == Status.STATUS_CODE_ERROR
    assert arrived.status.message == "NOT_FOUND"
    assert attributes(arrived)["rpc.response.status_code"] == "NOT_FOUND"


def test_an_exception_is_an_error_by_its_kind_and_its_text_stays_here(collector: Collector) -> None:
    tracer = open_tracer(collector.endpoint)
    with pytest.raises(ValueError, match="what the caller sent"), tracer.step("vault.sign", items=1, links=[]):
        raise ValueError("what the caller sent")
    tracer.close()
    arrived = collector.spans["vault.sign"]
    assert arrived.status.code == Status.STATUS_CODE_ERROR
    assert arrived.status.message == "ValueError"
    assert "what the caller sent" not in str(collector.exports)


async def test_a_step_links_the_rpcs_that_it_serves(collector: Collector) -> None:
    tracer = open_tracer(collector.endpoint)
    links: list[object] = []

    async def serve(path: str) -> None:
        with tracer.rpc(path, ()) as span:
            await asyncio.sleep(0.01)
            link = tracer.link()
            assert link is not None
            links.append(link)
            span.finish(OK)

    await asyncio.gather(*(asyncio.create_task(serve(f"/a/{name}")) for name in ("One", "Two")))
    assert tracer.link() is None
    with tracer.step("ledger.commit", items=2, links=links):
        pass
    tracer.close()
    step = collector.spans["ledger.commit"]
    assert step.kind == Span.SPAN_KIND_CLIENT
    assert step.parent_span_id == b""
    assert attributes(step) == {"popsigner.batch.items": 2}
    rpcs = {collector.spans["a/One"].span_id, collector.spans["a/Two"].span_id}
    assert {link.span_id for link in step.links} == rpcs
    assert len(rpcs) == 2


def test_an_rpc_that_its_caller_does_not_sample_is_neither_exported_nor_linked(collector: Collector) -> None:
    tracer = open_tracer(collector.endpoint)
    with tracer.rpc(SIGN, NOT_SAMPLED) as span:
        assert tracer.link() is None
        span.finish(OK)
    tracer.close()
    assert collector.spans == {}


def test_spans_leave_while_the_server_runs(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    tracer = open_tracer(collector.endpoint)
    with tracer.rpc(SIGN, ()) as span:
        span.finish(OK)
    assert collector.wait_for(SIGN[1:], 20)
    tracer.close()


def test_no_credential_reaches_the_collector(collector: Collector) -> None:
    tracer = open_tracer(collector.endpoint)
    with tracer.rpc(SIGN, SAMPLED) as span:
        span.finish(OK)
    tracer.close()
    assert collector.exports
    assert "psk_live" not in str(collector.exports)


def test_a_collector_that_is_not_there_does_not_hold_up_the_end() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
        tracer = open_tracer(endpoint)
        with tracer.rpc(SIGN, ()) as span:
            span.finish(OK)
        began = time.monotonic()
        tracer.close()
        assert time.monotonic() - began < 15
