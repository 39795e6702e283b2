import io
import json
import logging
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from popsigner_server.domain.ids import new_id
from popsigner_server.identity import PresentedKey
from popsigner_server.telemetry.logs import configure_logs, redact

SECRET = "5e" * 32
API_KEY = PresentedKey(environment="live", id=new_id(), secret=SECRET).text


class Lines:
    """What was written, read as the collector of a production log reads it: a JSON object a line."""

    def __init__(self, stream: io.StringIO) -> None:
        self.stream = stream

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """Logging as `serve` sets it up, at `info` in JSON, on a stream of this test; everything is put back afterwards."""
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level, chosen = root.handlers[:], root.level, structlog.get_config()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logs(level="info", style="json")
    yield Lines(stream)
    structlog.configure(**chosen)
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_an_event_is_one_line_of_json_with_time_level_and_logger(lines: Lines) -> None:
    structlog.get_logger("popsigner_server.app").info("listening", addresses=["127.0.0.1:9090"])
    (event,) = lines.events
    assert event["event"] == "listening"
    assert event["level"] == "info"
    assert event["logger"] == "popsigner_server.app"
    assert event["addresses"] == ["127.0.0.1:9090"]
    assert event["timestamp"].endswith("Z")


def test_text_with_line_breaks_stays_one_line(lines: Lines) -> None:
    structlog.get_logger().warning('first\nsecond\r\n{"event": "forged"}', user_agent="a\nb\u2028c")
    assert lines.text.count("\n") == 1
    (event,) = lines.events
    assert event["event"].startswith("first\nsecond")


def test_the_standard_librarys_loggers_write_the_same_lines(lines: Lines) -> None:
    logging.getLogger("aiohttp.client").warning("connection %s closed", 7)
    (event,) = lines.events
    assert (event["event"], event["level"], event["logger"]) == ("connection 7 closed", "warning", "aiohttp.client")


def test_pythons_warnings_become_events(lines: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("this goes away", stacklevel=1)
    assert any("this goes away" in event["event"] for event in lines.events)


def test_a_stack_is_inside_its_line(lines: Lines) -> None:
    try:
        int("nothing there")
    except ValueError as error:
        structlog.get_logger().error("internal fault", exc_info=error)
        logging.getLogger("grpc").exception("from the library")
    ours, theirs = lines.events
    for event in (ours, theirs):
        assert event["exception"].startswith("Traceback (most recent call last):\n")
        assert event["exception"].endswith("ValueError: invalid literal for int() with base 10: 'nothing there'")


def test_lines_below_the_level_are_not_written(lines: Lines) -> None:
    structlog.get_logger("quiet").debug("detail", value=1)
    logging.getLogger("library").debug("detail")
    assert lines.text == ""


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (API_KEY, SECRET),
        (f"key {API_KEY}.", SECRET),
        (f"first\n{API_KEY}", SECRET),
        (API_KEY[:60], SECRET[:16]),
        (f"traded psr_{'ab' * 32} again", "abab"),
        (f"psr_{'ab' * 10}", "abab"),
        (f"for inv_{'cd' * 32}.", "cdcd"),
        (f"token eyJhbGciOiJFZERTQSJ9.eyJpc3MiOiJw.{'x_-' * 20} sent", "eyJpc3MiOiJw"),
        ("eyJhbGciOiJFZERTQSJ9.eyJpc3MiOiJw", "eyJpc3MiOiJw"),
        (f"token s.{'aB3' * 8} sent", "aB3aB3"),
        (f"hvs.{'CAES-_' * 15}", "CAES"),
        (f"renewed\nhvb.{'AAAAAQ' * 12}", "AAAAAQ"),
        ("authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("{'Authorization': 'Bearer opaque-token'}", "opaque-token"),
        ("('authorization', 'Bearer opaque-token')", "opaque-token"),
        ('{"x-api-key": "opaque-token"}', "opaque-token"),
        ("X-Vault-Token=opaque-token", "opaque-token"),
        ("sent bearer opaque-token to it", "opaque-token"),
        ("postgresql://popsigner:hunter2@db/popsigner", "hunter2"),
        ("-----BEGIN EC PRIVATE KEY-----\nMHQCAQEE\n-----END EC PRIVATE KEY-----", "MHQCAQEE"),
        ("-----BEGIN PRIVATE KEY-----\nMHQCAQEE", "MHQCAQEE"),
        ("AGE-SECRET-KEY-1QQQSYQCYQ5RQWZQFPG9SCRGWPUGPZYSNZS23V9CC", "QQQSYQCYQ5"),
    ],
)
def test_what_looks_like_a_credential_is_never_written(lines: Lines, text: str, secret: str) -> None:
    log = structlog.get_logger()
    log.info(text)
    log.info("value", detail=text)
    log.info("bytes", detail=text.encode())
    log.info("inside", detail={"list": [1, ("tuple", text)], "set": {text}})
    log.info("as a name", detail={text: 1})
    log.info("as an object", detail=ValueError(text))
    logging.getLogger("library").warning("failed: %s", text)
    log.error("fault", exc_info=RuntimeError(text))
    assert len(lines.events) == 8
    assert secret not in lines.text
    assert lines.text.count("[redacted]") >= 8


@pytest.mark.parametrize(
    "field",
    ["authorization", "x-api-key", "X-Vault-Token", "password", "secret_id", "token", "secret", "refresh_token"],
)
def test_a_field_that_holds_credentials_is_never_written_whatever_it_holds(lines: Lines, field: str) -> None:
    structlog.get_logger().info("call", **{field: "opaque"}, headers={field: "opaque"})
    (event,) = lines.events
    assert event[field] == "[redacted]"
    assert event["headers"][field] == "[redacted]"


@pytest.mark.parametrize(
    "text",
    [
        "listening on 127.0.0.1:9090 and [::1]:9090",
        "key_01JD3ZQ5RX8V0Q6K1M2N3P4R5S signed sha256:" + "ab" * 32,
        "popsigner_server.transport.interceptors.errors.Errors",
        "https://bao.example:8200/v1/secp256k1/keys",
        "the API key ak_01JD3ZQ5RX8V0Q6K1M2N3P4R5S was revoked",
        "0.25 s. It is over",
        "sess_01JD3ZQ5RX8V0Q6K1M2N3P4R5S of inv_01JD3ZQ5RX8V0Q6K1M2N3P4R5S",
    ],
)
def test_what_is_no_credential_is_written_as_it_is(text: str) -> None:
    assert redact(None, "info", {"event": text, "count": 3, "ratio": 0.5, "done": True, "none": None}) == {
        "event": text,
        "count": 3,
        "ratio": 0.5,
        "done": True,
        "none": None,
    }


def test_the_console_style_writes_plain_lines_where_there_is_no_terminal() -> None:
    program = (
        "import structlog; from popsigner_server.telemetry.logs import configure_logs\n"
        "configure_logs(level='warning', style='console')\n"
        "structlog.get_logger('a').info('quiet'); structlog.get_logger('a').warning('loud', key=1)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == ""
    assert "quiet" not in done.stderr
    assert "\x1b" not in done.stderr
    assert "loud" in done.stderr
    assert "key=1" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_credential_in_a_chained_exception_is_never_written(lines: Lines) -> None:
    def look_up() -> None:
        try:
            int(API_KEY)
        except ValueError as error:
            raise LookupError("no such key") from error

    with pytest.raises(LookupError) as caught:
        look_up()
    assert SECRET in "".join(traceback.format_exception(caught.value))
    structlog.get_logger().error("fault", exc_info=caught.value)
    assert "LookupError: no such key" in lines.text
    assert SECRET not in lines.text
