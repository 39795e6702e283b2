"""popsigner namespaces …, api-keys …, audit …, usage"""

import datetime
import os
import re
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from .failures import ExitCode, fail
from .session import Session, Yes, confirm, connected

namespaces = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
api_keys = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
audit = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_DURATION = re.compile(r"([1-9][0-9]*)([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class RoleName(StrEnum):
    """Role of the contract, in lower case."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"
    OWNER = "owner"


@namespaces.command("create")
@connected
def create_namespace(
    session: Session,
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits and -.", show_default=False)],
    address_prefix: Annotated[str, typer.Option(help="The bech32 prefix of its keys' addresses.")] = "celestia",
) -> None:
    """Create a namespace.

    \b
    Examples:
      popsigner namespaces create staging
      popsigner namespaces create osmosis --address-prefix osmo
    """
    from .output import print_fields, print_json

    created = session.client.namespaces.create(name=name, address_prefix=address_prefix)
    (print_json if session.as_json else print_fields)(created)


@namespaces.command("list")
@connected
def list_namespaces(session: Session) -> None:
    """List the namespaces, oldest first.

    \b
    Examples:
      popsigner namespaces list
    """
    from .output import print_json, print_table

    found = list(session.client.namespaces.list())
    columns = ("id", "name", "address_prefix", "created_at")
    if session.as_json:
        print_json({"namespaces": found})
    else:
        print_table(columns, ([getattr(each, column) for column in columns] for each in found))


@namespaces.command("delete")
@connected
def delete_namespace(
    session: Session,
    namespace: Annotated[str, typer.Argument(help="Its name or id.", show_default=False)],
    yes: Yes = False,
) -> None:
    """Delete an empty namespace.

    \b
    Examples:
      popsigner namespaces delete staging --yes
    """
    from .output import print_json

    confirm(f"Delete the namespace {namespace}?", yes=yes, as_json=session.as_json)
    session.client.namespaces.delete(namespace)
    if session.as_json:
        print_json({"deleted": namespace})
    else:
        typer.echo(f"deleted {namespace}")


def _write_once(path: Path, key: str) -> None:
    # Only its owner may read it, from the first moment on, and nothing that is there is overwritten.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(key + "\n")


def _expiry(expires_in: str, *, as_json: bool) -> datetime.datetime | None:
    if not expires_in:
        return None
    found = _DURATION.fullmatch(expires_in)
    if not found:
        fail("--expires-in is a number and m, h or d, as in 30d", code=ExitCode.USAGE, as_json=as_json)
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(**{_UNITS[found[2]]: int(found[1])})


@api_keys.command("create")
@connected
def create_api_key(
    session: Session,
    name: Annotated[str, typer.Argument(help="What it is for.", show_default=False)],
    scope: Annotated[list[str] | None, typer.Option(help="What it may do, e.g. api:keys:sign; repeatable.")] = None,
    role: Annotated[RoleName | None, typer.Option(help="A role beyond its scopes.")] = None,
    expires_in: Annotated[str, typer.Option(help="Its life: 90m, 12h, 30d; by default without end.")] = "",
    key_out: Annotated[
        Path | None,
        typer.Option(help="Write the key to this new file (mode 0600) and do not show it.", metavar="FILE"),
    ] = None,
) -> None:
    """Create an API key, and show it, this once.

    \b
    Examples:
      popsigner api-keys create prover --scope api:keys:sign --scope api:keys:read --key-out prover.key
      popsigner api-keys create deploy --role admin --expires-in 12h --json
    """
    from ..gen.popsigner.v1 import Role
    from .output import plain, print_fields, print_json

    if key_out is not None and key_out.exists():
        fail(f"{key_out} exists; name a new file", code=ExitCode.USAGE, as_json=session.as_json)
    created = session.client.api_keys.create(
        name=name,
        scopes=scope or [],
        role=Role[role.name] if role else Role.ROLE_UNSPECIFIED,
        expires_at=_expiry(expires_in, as_json=session.as_json),
    )
    shown = {"key": created.key}
    if key_out is not None:
        try:
            _write_once(key_out, created.key)
        except OSError as error:
            # A key that nobody has seen must not stay valid.
            session.client.api_keys.revoke(created.api_key)
            fail(
                f"{key_out} cannot be written ({error.strerror}); the new API key was revoked",
                code=ExitCode.REFUSED,
                as_json=session.as_json,
            )
        shown = {"key_file": str(key_out)}
    if session.as_json:
        print_json({"api_key": plain(created.api_key), **shown})
        return
    print_fields(created.api_key)
    for label, value in shown.items():
        typer.echo(f"{label}: {value}")
    if key_out is None:
        typer.echo("Keep the key now: it is not shown again.", err=True)


@api_keys.command("list")
@connected
def list_api_keys(session: Session) -> None:
    """List the API keys, oldest first, revoked ones too.

    \b
    Examples:
      popsigner api-keys list
    """
    from .output import print_json, print_table

    found = list(session.client.api_keys.list())
    if session.as_json:
        print_json({"api_keys": found})
        return
    columns = ("id", "name", "role", "scopes", "expires_at", "revoked_at", "last_used_at")
    rows = ([getattr(each, column) if column != "role" or each.role else "" for column in columns] for each in found)
    print_table(columns, rows)


@api_keys.command("revoke")
@connected
def revoke_api_key(
    session: Session,
    api_key: Annotated[str, typer.Argument(metavar="ID", help="Its id, ak_….", show_default=False)],
    yes: Yes = False,
) -> None:
    """Revoke an API key, at once and for good.

    \b
    Examples:
      popsigner api-keys revoke ak_01HXYZ… --yes
    """
    from .output import print_fields, print_json

    confirm(f"Revoke the API key {api_key}? This cannot be undone.", yes=yes, as_json=session.as_json)
    revoked = session.client.api_keys.revoke(api_key)
    (print_json if session.as_json else print_fields)(revoked)


def _time(given: str, option: str, *, as_json: bool) -> datetime.datetime | None:
    if not given:
        return None
    try:
        found = datetime.datetime.fromisoformat(given)
    except ValueError:
        fail(f"{option} is a time like 2026-01-31 or 2026-01-31T12:00:00Z", code=ExitCode.USAGE, as_json=as_json)
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)


@audit.command("list")
@connected
def list_logs(
    session: Session,
    event: Annotated[str, typer.Option(help="Only this event, e.g. key.signed.")] = "",
    key: Annotated[str, typer.Option(help="Only this key, by id or namespace/name.")] = "",
    since: Annotated[str, typer.Option(help="From this time on (ISO 8601; UTC without an offset).")] = "",
    until: Annotated[str, typer.Option(help="Before this time.")] = "",
    limit: Annotated[int, typer.Option(help="At most this many.", min=1)] = 50,
) -> None:
    """List the audit trail, newest first.

    \b
    Examples:
      popsigner audit list
      popsigner audit list --event key.signed --key production/sequencer --since 2026-01-01 --limit 1000 --json
    """
    from .output import print_json, print_table

    logs = session.client.audit.list(
        event_type=event,
        key=key,
        start_time=_time(since, "--since", as_json=session.as_json),
        end_time=_time(until, "--until", as_json=session.as_json),
        page_size=min(limit, 1000),
    )
    found = list(islice(logs, limit))
    if session.as_json:
        print_json({"logs": found})
    else:
        columns = ("sequence", "timestamp", "event", "key_id", "actor", "metadata")
        print_table(columns, ([getattr(log, column) for column in columns] for log in found))


@connected
def usage(
    session: Session, month: Annotated[str, typer.Option(help="YYYY-MM in UTC; by default this month.")] = ""
) -> None:
    """Show what was used in a month.

    \b
    Examples:
      popsigner usage
      popsigner usage --month 2026-01 --json
    """
    from .output import print_json, print_table

    used = session.client.usage(month=month)
    if session.as_json:
        print_json(used)
    else:
        print_table(("metric", "value", "quota"), ((each.metric, each.value, each.quota) for each in used.usage))
