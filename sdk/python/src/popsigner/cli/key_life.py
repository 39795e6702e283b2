"""popsigner keys …: what happens to a key after its creation."""

from typing import TYPE_CHECKING, Annotated

import typer

from .failures import ExitCode, fail
from .keys import KeyName, app, entries
from .session import Session, Yes, confirm, connected

if TYPE_CHECKING:
    from ..calls.keys import RotatedKey
    from ..gen.popsigner.v1 import Key

_VERSION_COLUMNS = ("version", "signs", "address", "eth_address", "created_at")


def _show(session: Session, key: "Key") -> None:
    from .output import print_fields, print_json

    (print_json if session.as_json else print_fields)(key)


@app.command()
@connected
def update(
    session: Session,
    key: KeyName,
    name: Annotated[str | None, typer.Option(help="A new name.", show_default=False)] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(help="A note, name=value, or name= to remove it; repeatable.")
    ] = None,
    min_version: Annotated[
        int | None, typer.Option(help="The oldest version that may sign from now on.", min=1, show_default=False)
    ] = None,
) -> None:
    """Rename a key, change its notes, or stop its old versions from signing.

    --min-version stops the versions below it at once; a lower one lets them sign again.

    \b
    Examples:
      popsigner keys update production/sequencer --metadata chain=celestia --metadata old=
      popsigner keys update production/sequencer --min-version 2
    """
    if name is None and not metadata and min_version is None:
        fail("say what to change: --name, --metadata, --min-version", code=ExitCode.USAGE, as_json=session.as_json)
    notes = entries(metadata or [], "--metadata", as_json=session.as_json)
    _show(session, session.client.keys.update(key, name=name, metadata=notes, min_version=min_version or 0))


@app.command()
@connected
def disable(session: Session, key: KeyName) -> None:
    """Stop a key from signing, at once, until it is enabled again.

    \b
    Examples:
      popsigner keys disable production/sequencer
    """
    _show(session, session.client.keys.disable(key))


@app.command()
@connected
def enable(session: Session, key: KeyName) -> None:
    """Let a disabled key sign again.

    \b
    Examples:
      popsigner keys enable production/sequencer
    """
    _show(session, session.client.keys.enable(key))


@app.command()
@connected
def versions(session: Session, key: KeyName) -> None:
    """List the versions of a key with their addresses, newest first.

    \b
    Examples:
      popsigner keys versions production/sequencer
      popsigner keys versions production/sequencer --json | jq -r '.versions[] | select(.signs) | .address'
    """
    from .output import print_json, print_table

    found = session.client.keys.versions(key)
    if session.as_json:
        print_json({"versions": found})
    else:
        print_table(_VERSION_COLUMNS, ([getattr(each, column) for column in _VERSION_COLUMNS] for each in found))


def _show_rotated(session: Session, rotated: "RotatedKey") -> None:
    from .output import plain, print_fields, print_json, text

    key, previous = rotated.key, rotated.previous
    if session.as_json:
        print_json({"key": plain(key), "previous": plain(previous)})
        return
    print_fields(key)
    for name in ("version", "address", "eth_address"):
        typer.echo(f"previous_{name}: {text(getattr(previous, name))}")
    until = " and still signs, with --key-version" if previous.signs else ""
    typer.echo(
        f"{text(key.address)} is a new address, without funds and without grants. "
        f"Version {previous.version} keeps those of {text(previous.address)}{until}.",
        err=True,
    )


@app.command()
@connected
def rotate(
    session: Session,
    key: KeyName,
    expected_version: Annotated[
        int | None,
        typer.Option(
            help="Only if this version is the newest; repeated with it, makes no second new one. "
            "Default: the newest when the command begins.",
            min=1,
            show_default=False,
        ),
    ] = None,
    yes: Yes = False,
) -> None:
    """Give a key a new version, which signs from now on: a NEW ADDRESS, without funds and without grants.

    The versions before it keep their addresses, and sign where they are named, until `keys update --min-version`
    stops them. A command that failed without an answer is repeated with --expected-version.

    \b
    Examples:
      popsigner keys rotate production/sequencer
      popsigner keys rotate production/sequencer --expected-version 1 --yes --json
    """
    from ..errors import Cancelled, DeadlineExceeded, InternalError, ResourceExhausted, Unavailable

    found = session.client.keys.get(key)
    expected = expected_version or found.version
    # A key that is past the expected version gets no new one: the POP repeats its answer, or refuses.
    if found.version <= expected:
        confirm(
            f"Rotate {key}? Version {found.version + 1} is a new address, without funds and without grants, and signs "
            f"instead of {found.address}.",
            yes=yes,
            as_json=session.as_json,
        )
    try:
        rotated = session.client.keys.rotate(found, expected_version=expected)
    except (Cancelled, DeadlineExceeded, InternalError, ResourceExhausted, Unavailable) as error:
        # An attempt may have made the version: a repetition that reads the key again would replace that one too.
        error.message = f"{error.message.rstrip('.')}; repeat it with --expected-version {expected}"
        raise
    _show_rotated(session, rotated)


@app.command()
@connected
def delete(
    session: Session,
    key: KeyName,
    force: Annotated[bool, typer.Option("--force", help="Destroy the private key now; this cannot be undone.")] = False,
    yes: Yes = False,
) -> None:
    """Delete a key. It stops signing at once; it can be restored for 7 days, then its private key is destroyed.

    \b
    Examples:
      popsigner keys delete staging/old-worker
      popsigner keys delete staging/old-worker --force --yes
    """
    from ..gen.popsigner.v1 import KeyState
    from .output import text

    end = "destroy its private key now, for good" if force else "it can be restored for 7 days"
    confirm(f"Delete {key} ({end})?", yes=yes, as_json=session.as_json)
    deleted = session.client.keys.delete(key, force=force)
    _show(session, deleted)
    if deleted.state is KeyState.DELETED and not session.as_json:
        until = text(deleted.destroy_at)
        typer.echo(f"It can be restored until {until}, by `popsigner keys restore {text(deleted.id)}`.", err=True)


@app.command()
@connected
def restore(session: Session, key: KeyName) -> None:
    """Take the deletion of a key back, until its private key is destroyed. A disabled key stays disabled.

    \b
    Examples:
      popsigner keys restore staging/old-worker
    """
    _show(session, session.client.keys.undelete(key))
