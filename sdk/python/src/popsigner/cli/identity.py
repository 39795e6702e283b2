"""The identity that opens recovery copies: from a file, from stdin, or typed where nothing shows it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from .hidden import piped, typed_hidden

IdentityFile = Annotated[
    str,
    typer.Option(
        "--identity", help="The file of the recovery identity, as age-keygen writes it; - is stdin.", metavar="FILE"
    ),
]


def read_identity(name: str, *, as_json: bool) -> bytearray:
    """The content, which the caller overwrites. Raises KeyFileError, typer.Exit."""
    from ..keyfiles import files

    if name != "-":
        return files.read(Path(name))
    return typed_hidden("Identity", as_json=as_json) if sys.stdin.isatty() else piped(as_json=as_json)
