"""What every command that talks to a POP has in common: where it is, who asks, how to print, how to fail."""

import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer

from .failures import ExitCode, explained, fail

if TYPE_CHECKING:
    from ..client import Client

P = ParamSpec("P")
_PANEL = "Connection and output"

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=_PANEL)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed without a terminal.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A connected client, and how this run prints."""

    client: "Client"
    as_json: bool


def _options(
    *,
    endpoint: Annotated[
        str | None,
        typer.Option(
            help="https://host, host:port or unix:///path; default: $POPSIGNER_ENDPOINT, then 127.0.0.1:8080.",
            metavar="ADDRESS",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the API key; default: $POPSIGNER_API_KEY, then $POPSIGNER_API_KEY_FILE.",
            metavar="FILE",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option(help="PEM certificates to trust instead of the public ones.", rich_help_panel=_PANEL),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow plaintext to another machine.", rich_help_panel=_PANEL)
    ] = False,
    timeout: Annotated[
        float, typer.Option(help="Seconds for a call with its retries.", min=0.001, rich_help_panel=_PANEL)
    ] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Declares the options that `connected` adds."""


def connected(command: Callable[Concatenate[Session, P], None]) -> Callable[..., None]:
    """Make a command out of a function whose first parameter is a Session: adds the options that make one, and explains
    its errors."""

    def run(
        *,
        endpoint: str | None,
        api_key_file: Path | None,
        ca_file: Path | None,
        insecure: bool,
        timeout: float,
        as_json: bool,
        **arguments: Any,
    ) -> None:
        with explained(as_json=as_json):
            # What a command has to say on stderr is one sentence; gRPC's own notes are not part of it.
            os.environ.setdefault("GRPC_VERBOSITY", "NONE")
            from ..client import Client

            with Client(
                endpoint=endpoint, api_key_file=api_key_file, ca_file=ca_file, insecure=insecure, timeout=timeout
            ) as client:
                command(Session(client=client, as_json=as_json), **arguments)  # type: ignore[call-arg]  # typer gives them by name

    own = list(inspect.signature(command).parameters.values())[1:]
    added = list(inspect.signature(_options).parameters.values())
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *added)]
    run.__name__ = getattr(command, "__name__", "run")
    run.__doc__ = command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # inspect reads it from any function
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def confirm(question: str, *, yes: bool, as_json: bool) -> None:
    """Ask on a terminal unless `--yes` was given; without a terminal it must be. Raises typer.Exit."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail("this needs --yes, as there is no terminal to ask at", code=ExitCode.USAGE, as_json=as_json)
    if not typer.confirm(question, err=True):
        fail("nothing was changed", code=ExitCode.REFUSED, as_json=as_json)
