"""Logs as OpenBao takes them from a plugin: one JSON object a line on standard error (go-hclog's names)."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

_LEVELS: Final = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warn",
    logging.ERROR: "error",
    logging.CRITICAL: "error",
}


class HclogFormatter(logging.Formatter):
    """Formats a record as go-hclog does. An exception is named by its type alone: its text could quote a request."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "@level": _LEVELS.get(record.levelno, "info"),
            "@message": record.getMessage(),
            "@module": record.name,
            "@timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__name__
        return json.dumps(line)


def configure(level: int = logging.INFO) -> None:
    """Send every log record of this process to standard error in this form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(HclogFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
