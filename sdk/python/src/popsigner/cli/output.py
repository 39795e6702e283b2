"""What commands print: JSON for programs, tables for people, tab-separated lines for pipes."""

import datetime
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from enum import Enum
from typing import Any, cast

import betterproto2
import typer

from .failures import printable


def plain(value: Any) -> Any:
    """A message as JSON: the contract's field names, enum names, RFC 3339 times in UTC, bytes as hexadecimal, every
    field present and null where it is absent."""
    match value:
        case betterproto2.Message():
            # Every message is a dataclass; its base class, which the type checker sees, is not.
            return {field.name: plain(getattr(value, field.name)) for field in fields(cast(Any, value))}
        case Enum():
            return value.name or int(value.value)
        case datetime.datetime():
            return value.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")
        case bytes():
            return value.hex()
        case Mapping():
            return {name: plain(each) for name, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
        case _:
            return value


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    typer.echo(json.dumps(plain(value), indent=2, ensure_ascii=False))


def text(value: Any) -> str:
    """A value for a person, on one line."""
    match plain(value):
        case None | "":
            return "-"
        case bool(flag):
            return "yes" if flag else "no"
        case dict(entries):
            return printable(" ".join(f"{name}={each}" for name, each in entries.items())) or "-"
        case list(entries):
            return printable(", ".join(map(str, entries))) or "-"
        case other:
            return printable(str(other))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table on a terminal; elsewhere one line a row, its cells separated by tabs, after a line of column names."""
    cells = [[text(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for line in (columns, *cells):
            typer.echo("\t".join(line))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=box.SIMPLE_HEAD)
    for line in cells:
        # Names and metadata are the owner's words: never read as markup.
        table.add_row(*map(Text, line))
    Console().print(table)


def print_fields(message: betterproto2.Message) -> None:
    """One line a field, `name: value`; absent fields are left out."""
    for name, value in plain(message).items():
        if value not in (None, "", {}, []):
            typer.echo(f"{name}: {text(value)}")
