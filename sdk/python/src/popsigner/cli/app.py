"""All commands in one place, each loaded when it is called: all together take longer to load than most of them run."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a command or group is, and what `popsigner --help` says of it. With `passes_on` everything after its name
    belongs to another program, `--help` too."""

    module: str
    name: str
    help: str
    passes_on: bool = False


_PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
_PLACES = {
    "up": _Place("up", "up", "Run a whole POP on this machine.", passes_on=True),
    "backup": _Place("up", "backup", "Make a backup of the POP on this machine.", passes_on=True),
    "restore": _Place("up", "restore", "Make a POP from a backup.", passes_on=True),
    "keys": _Place("key_export", "app", "Create, show, disable, rotate, delete and export keys."),
    "sign": _Place("signing", "sign", "Sign a message or digest, and print the signature."),
    "verify": _Place("signing", "verify", "Check a signature."),
    "migrate": _Place("migrate_export", "app", "Bring keys in from files, and out into files of other programs."),
    "namespaces": _Place("namespaces", "app", "Create, list and delete namespaces."),
    "api-keys": _Place("api_keys", "app", "Create, list, rotate and revoke API keys."),
    "login": _Place("login", "login", "Log in as a person."),
    "logout": _Place("login", "logout", "End the session of `popsigner login`."),
    "whoami": _Place("login", "whoami", "Show who you are."),
    "org": _Place("organization", "app", "Show, change and delete the organization; connect its login."),
    "members": _Place("members", "app", "List and remove members, and change their roles."),
    "invitations": _Place("invitations", "app", "Invite people, and accept invitations."),
    "sessions": _Place("account", "sessions", "List and end your sessions."),
    "account": _Place("account", "account", "Export or erase what the POP keeps about you."),
    "recovery": _Place("recovery_open", "app", "Keep sealed copies of all keys, and open them without the POP."),
    "exit-drill": _Place("exit_drill", "app", "Show that every key gets out of the POP and signs outside it."),
    "audit": _Place("audit", "app", "Read the audit trail."),
    "usage": _Place("audit", "usage", "Show what was used in a month."),
    "version": _Place("version", "show_version", "Show the version of this program."),
}


def _application(**settings: Any) -> typer.Typer:
    return typer.Typer(
        # Decorated help takes 0.4 s to load what it is decorated with.
        rich_markup_mode=None,
        # A traceback with local variables would show what was signed.
        pretty_exceptions_enable=False,
        **settings,
    )


def load(name: str) -> Any:
    """The command or group of this name, ready to be called."""
    place = _PLACES[name]
    found = getattr(import_module(f".{place.module}", __package__), place.name)
    if not isinstance(found, typer.Typer):
        alone = _application(add_completion=False)
        alone.command(name, context_settings=_PASS_ON if place.passes_on else None)(found)
        return typer.main.get_command(alone)
    whole = _application(add_completion=False)
    whole.add_typer(found, name=name, help=place.help)
    return typer.main.get_group(whole).commands[name]


class _Commands(TyperGroup):
    """The commands as `popsigner --help` lists them, which become the real ones when they are called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else load(name), rest


app = _application(
    no_args_is_help=True,
    cls=_Commands,
    help="Sign with keys that never leave OpenBao.\n\n"
    "The POP is found at --endpoint or $POPSIGNER_ENDPOINT (127.0.0.1:8080 by default); the API key is read from "
    "--api-key-file, $POPSIGNER_API_KEY or $POPSIGNER_API_KEY_FILE; without one, the session of "
    "`popsigner login` counts.\n\n"
    "Exit codes: 0 done, 1 refused, 2 usage, 3 not allowed, 4 not found, 5 conflict, 6 quota or rate, 7 unavailable, "
    "8 signature invalid, 9 done in part.",
)


def _listed() -> None:
    """Stands for a command until it is called."""


for _name, _place in _PLACES.items():
    app.command(_name, help=_place.help)(_listed)
