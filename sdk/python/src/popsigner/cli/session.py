"""What every command that talks to a POP has in common: where it is, who asks, how to print, how to fail."""

import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer

from .failures import ExitCode, explained, fail

if TYPE_CHECKING:
    from ..client import Client
    from ..credential import Credential

P = ParamSpec("P")
_PANEL = "Connection and output"
_API_KEY_NAMES = ("POPSIGNER_API_KEY", "POPSIGNER_API_KEY_FILE")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=_PANEL)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed without a terminal.")]
CaFile = Annotated[
    Path | None,
    typer.Option(help="PEM certificates to trust instead of the public ones.", rich_help_panel=_PANEL),
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Allow plaintext to another machine.", rich_help_panel=_PANEL)
]
Timeout = Annotated[float, typer.Option(help="Seconds for a call with its retries.", min=0.001, rich_help_panel=_PANEL)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A connected client, and how this run prints. `credential` is None where an API key asks."""

    client: "Client"
    as_json: bool
    credential: "Credential | None"
    settings: Mapping[str, Any] = field(repr=False)

    def without_organization(self) -> "Client":
        """Another client, which names no organization: to ask which there are."""
        from ..client import Client

        return Client(**{**self.settings, "organization": ""})


def quiet_grpc() -> None:
    """What a command has to say on stderr is one sentence; gRPC's own notes are not part of it."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def stored_credential(api_key_file: Path | None) -> "Credential | None":
    """The session of `popsigner login`; None where an API key is given, which comes first."""
    if api_key_file is not None or any(os.environ.get(name) for name in _API_KEY_NAMES):
        return None
    from ..credential import Credential
    from ..errors import ConfigurationError
    from ..store import SessionFile, default_path

    if not SessionFile(default_path(os.environ)).exists():
        raise ConfigurationError(
            "nobody is logged in here, and there is no API key: `popsigner login`, or set POPSIGNER_API_KEY_FILE"
        )
    return Credential()


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
    organization: Annotated[
        str | None,
        typer.Option(
            help="The organization that is meant, by id or slug; default: $POPSIGNER_ORGANIZATION, then `org use`.",
            metavar="NAME",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the API key; default: $POPSIGNER_API_KEY, then $POPSIGNER_API_KEY_FILE, then the login.",
            metavar="FILE",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    ca_file: CaFile = None,
    insecure: Insecure = False,
    timeout: Timeout = 10.0,
    as_json: AsJson = False,
) -> None:
    """Declares the options that `connected` adds."""


def connected(command: Callable[Concatenate[Session, P], None]) -> Callable[..., None]:
    """Make a command out of a function whose first parameter is a Session: adds the options that make one, and explains
    its errors."""
    own = list(inspect.signature(command).parameters.values())[1:]
    added = list(inspect.signature(_options).parameters.values())
    settings_of = [parameter.name for parameter in added if parameter.name != "as_json"]

    def run(*, as_json: bool, **arguments: Any) -> None:
        settings = {name: arguments.pop(name) for name in settings_of}
        with explained(as_json=as_json):
            quiet_grpc()
            settings["credential"] = stored_credential(settings["api_key_file"])
            from ..client import Client

            with Client(**settings) as client:
                session = Session(client=client, as_json=as_json, credential=settings["credential"], settings=settings)
                command(session, **arguments)  # type: ignore[call-arg]  # typer gives them by name

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


def typed(given: str, question: Callable[[], str], *, as_json: bool) -> str:
    """What confirms something that cannot be undone: the value of `--confirm`, or what is typed at a terminal. Raises
    typer.Exit."""
    if given:
        return given
    if not sys.stdin.isatty():
        fail("this needs --confirm, as there is no terminal to ask at", code=ExitCode.USAGE, as_json=as_json)
    answer: str = typer.prompt(question(), err=True, default="", show_default=False)
    if not answer:
        fail("nothing was changed", code=ExitCode.REFUSED, as_json=as_json)
    return answer
