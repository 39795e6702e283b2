"""popsigner api-keys …"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .failures import ExitCode, fail
from .session import Session, Yes, confirm, connected
from .values import RoleName, duration, expiry, new_file

if TYPE_CHECKING:
    from ..calls.api_keys import NewApiKey

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

ApiKeyId = Annotated[str, typer.Argument(metavar="ID", help="Its id, ak_….", show_default=False)]
KeyOut = Annotated[
    Path | None,
    typer.Option(help="Write the key to this new file (mode 0600) and do not show it.", metavar="FILE"),
]
_LIMITS = "What it is limited to"


def _write_once(path: Path, key: str) -> None:
    # Only its owner may read it, from the first moment on, and nothing that is there is overwritten.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(key + "\n")


def _show(session: Session, new: "NewApiKey", key_out: Path | None) -> None:
    from .output import plain, print_fields, print_json

    shown = {"key": new.key} if key_out is None else {"key_file": str(key_out)}
    if session.as_json:
        print_json({"api_key": plain(new.api_key), **shown})
        return
    print_fields(new.api_key)
    for label, value in shown.items():
        typer.echo(f"{label}: {value}")
    if key_out is None:
        typer.echo("Keep the key now: it is not shown again.", err=True)


@app.command()
@connected
def create(
    session: Session,
    name: Annotated[str, typer.Argument(help="What it is for.", show_default=False)],
    scope: Annotated[list[str] | None, typer.Option(help="What it may do, e.g. api:keys:sign; repeatable.")] = None,
    role: Annotated[RoleName | None, typer.Option(help="A role beyond its scopes.")] = None,
    expires_in: Annotated[str, typer.Option(help="Its life: 90m, 12h, 30d; by default without end.")] = "",
    ip: Annotated[
        list[str] | None,
        typer.Option(help="An address or network to use it from; repeatable.", rich_help_panel=_LIMITS),
    ] = None,
    namespace: Annotated[
        list[str] | None,
        typer.Option(help="A namespace, by name or id; repeatable.", rich_help_panel=_LIMITS),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(help="A key, by id or namespace/name; repeatable.", rich_help_panel=_LIMITS),
    ] = None,
    key_out: KeyOut = None,
) -> None:
    """Create an API key, and show it, this once.

    \b
    Examples:
      popsigner api-keys create prover --scope api:keys:sign --scope api:keys:read --key-out prover.key
      popsigner api-keys create worker --scope api:keys:sign --key production/blob-worker-1 --ip 203.0.113.0/24
      popsigner api-keys create deploy --role admin --expires-in 12h --json
    """
    from ..gen.popsigner.v1 import Role

    if key_out is not None and key_out.exists():
        fail(f"{key_out} exists; name a new file", code=ExitCode.USAGE, as_json=session.as_json)
    created = session.client.api_keys.create(
        name=name,
        scopes=scope or [],
        role=role.value_of() if role else Role.ROLE_UNSPECIFIED,
        expires_at=expiry(expires_in, "--expires-in", as_json=session.as_json),
        ip_allow_list=ip or [],
        namespaces=namespace or [],
        keys=key or [],
    )
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
    _show(session, created, key_out)


@app.command("list")
@connected
def list_api_keys(session: Session) -> None:
    """List the API keys with their limits, oldest first, revoked ones too.

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
    limits = ("ip_allow_list", "namespaces", "key_ids")
    rows = (
        [getattr(each, column) if column != "role" or each.role else "" for column in (*columns, *limits)]
        for each in found
    )
    print_table((*columns, *limits), rows)


@app.command()
@connected
def rotate(
    session: Session,
    api_key: ApiKeyId,
    overlap: Annotated[str, typer.Option(help="How long the old secret stays valid, e.g. 24h; at most 30d.")] = "",
    key_out: KeyOut = None,
    yes: Yes = False,
) -> None:
    """Give an API key a new secret, and show it, this once. Its id, name and rights stay.

    Without --overlap the old secret ends at once.

    \b
    Examples:
      popsigner api-keys rotate ak_01HXYZ… --overlap 24h --key-out prover.key.new
      popsigner api-keys rotate ak_01HXYZ… --yes --json
    """
    import datetime
    from contextlib import ExitStack

    life = duration(overlap, "--overlap", as_json=session.as_json)
    if life is not None and life > datetime.timedelta(days=30):
        fail("--overlap is at most 30d", code=ExitCode.USAGE, as_json=session.as_json)
    if life is None:
        confirm(f"End the secret of {api_key} that programs use now?", yes=yes, as_json=session.as_json)
    with ExitStack() as stack:
        # Before the rotation: afterwards the only copy of the new secret would have nowhere to go.
        file = stack.enter_context(new_file(key_out, as_json=session.as_json)) if key_out else None
        rotated = session.client.api_keys.rotate(api_key, overlap=life or datetime.timedelta(0))
        if file is not None:
            try:
                file.write(rotated.key.encode() + b"\n")
                file.flush()
            except OSError as error:
                fail(
                    f"{key_out} cannot be written ({error.strerror}), and the new secret is lost; rotate it again",
                    code=ExitCode.REFUSED,
                    as_json=session.as_json,
                )
    _show(session, rotated, key_out)


@app.command()
@connected
def revoke(session: Session, api_key: ApiKeyId, yes: Yes = False) -> None:
    """Revoke an API key, at once and for good.

    \b
    Examples:
      popsigner api-keys revoke ak_01HXYZ… --yes
    """
    from .output import print_fields, print_json

    confirm(f"Revoke the API key {api_key}? This cannot be undone.", yes=yes, as_json=session.as_json)
    revoked = session.client.api_keys.revoke(api_key)
    (print_json if session.as_json else print_fields)(revoked)
