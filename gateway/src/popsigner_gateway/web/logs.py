"""Structured logs: one JSON line an event on stderr, as the server's.

What may be in them is decided where they are written: ids, reasons, routes and numbers. Tokens, codes, e-mail
addresses and query strings never are; libraries that would write addresses are kept quiet.
"""

import logging
import sys

import structlog

_CHATTY = ("authlib", "httpcore2", "httpx2", "uvicorn.access", "asyncio")


def configure_logs(*, level: str, style: str) -> None:
    """Set logging up for this process. level: debug, info, warning or error. style: json or console."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    before: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if style == "console"
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*before, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*before, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.WARNING), force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.captureWarnings(True)
