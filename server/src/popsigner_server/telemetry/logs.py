"""Structured logs: one event a line on stderr, the standard library's among them, and no secret in any of them."""

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

REDACTED = "[redacted]"
# Fields that are secret whatever they hold; compared in lower case, with `-` as `_`.
_SECRET_FIELDS = frozenset(
    {
        "access_token",
        "api_key",
        "authorization",
        "client_secret",
        "client_token",
        "cookie",
        "device_code",
        "password",
        "private_key",
        "refresh_token",
        "secret",
        "secret_id",
        "token",
        "x_api_key",
        "x_vault_token",
    }
)
# What a secret looks like inside a text: a marker that such a text contains in lower case (looking for it is all that
# most texts cost), the shape, and what is written instead. A line break before it may have become the two of `\n`.
_SECRET_SHAPES = (
    # API keys; what may be shown of one is its ak_… id.
    ("psk_", re.compile(r"psk_(?:live|test)_\w+"), f"psk_{REDACTED}"),
    # Refresh tokens, and the tokens of invitations; ids have another alphabet.
    ("psr_", re.compile(r"psr_\w+"), f"psr_{REDACTED}"),
    ("inv_", re.compile(r"inv_[0-9a-f]{32,}"), f"inv_{REDACTED}"),
    # JWTs: header, claims and signature, or what an end left of them.
    ("eyj", re.compile(r"eyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?"), REDACTED),
    # OpenBao tokens: service, batch and recovery, in the old and the new form.
    (".", re.compile(r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt]))(?:hv)?[sbr]\.[A-Za-z0-9_-]{24,}"), REDACTED),
    *(
        (header, re.compile(rf"(?i)({header}[\"']?\s*[:=,]\s*[\"']?)(?:\w+ +)?[^\s\"',)}}\]]+"), rf"\1{REDACTED}")
        for header in ("authorization", "x-api-key", "x-vault-token")
    ),
    ("bearer ", re.compile(r"(?i)(bearer +)[^\s\"',)}\]]+"), rf"\1{REDACTED}"),
    # The password in a URL.
    ("://", re.compile(r"(://[^:/@\s]*:)[^@/\s]+@"), rf"\1{REDACTED}@"),
    (
        "private key-----",
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
        REDACTED,
    ),
    ("age-secret-key-", re.compile(r"(?i)AGE-SECRET-KEY-1[A-Z0-9]+"), REDACTED),
)


def _clean(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {
            _clean(str(name)): REDACTED if _is_secret(str(name)) else _clean(inner) for name, inner in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(inner) for inner in value]
    text = value if isinstance(value, str) else repr(value)
    lowered = text.lower()
    for marker, shape, replacement in _SECRET_SHAPES:
        if marker in lowered:
            text = shape.sub(replacement, text)
    return text


def _is_secret(field: str) -> bool:
    return field.lower().replace("-", "_") in _SECRET_FIELDS


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A processor: what looks like a credential, or stands in a field that holds one, is written as `[redacted]`."""
    cleaned: EventDict = _clean(event)
    return cleaned


class _Logger(structlog.WriteLogger):
    """Writes lines, and knows its name."""

    def __init__(self, name: str | None, file: TextIO) -> None:
        super().__init__(file)
        self.name = name


def _add_name(logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if isinstance(logger, _Logger) and logger.name is not None:
        event["logger"] = logger.name
    return event


def configure_logs(*, level: Literal["debug", "info", "warning", "error"], style: Literal["json", "console"]) -> None:
    """Set logging up for this process. Loggers are structlog's (`structlog.get_logger(__name__)`).

    A line below `level` costs a call that does nothing: its level is decided here, not at each line.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    stream = sys.stderr
    before: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    after: list[Processor] = [structlog.processors.format_exc_info, redact, _renderer(style, stream)]
    structlog.configure(
        processors=[*before, _add_name, *after],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda name=None: _Logger(name, stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*before, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *after],
        )
    )
    logging.basicConfig(handlers=[handler], level=threshold, force=True)
    logging.captureWarnings(True)


def _renderer(style: str, stream: TextIO) -> Processor:
    if style == "console":
        return structlog.dev.ConsoleRenderer(colors=stream.isatty())
    return structlog.processors.JSONRenderer()
