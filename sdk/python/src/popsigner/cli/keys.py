"""popsigner keys …; what changes a key after its creation is in `key_life`."""

from enum import StrEnum
from itertools import islice
from typing import Annotated

import typer

from .failures import ExitCode, fail
from .session import Session, connected

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

KeyName = Annotated[str, typer.Argument(metavar="KEY", help="The key's id, or namespace/name.", show_default=False)]
_COLUMNS = ("id", "namespace", "name", "state", "address", "eth_address")


class State(StrEnum):
    """Key.State of the contract, in lower case."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    DELETED = "deleted"
    DESTROYED = "destroyed"


def entries(given: list[str], option: str, *, as_json: bool) -> dict[str, str]:
    """`name=value` options as a mapping."""
    found = dict(entry.split("=", 1) for entry in given if "=" in entry)
    if len(found) != len(given):
        fail(f"{option} is name=value, and each name once", code=ExitCode.USAGE, as_json=as_json)
    return found


@app.command()
@connected
def create(
    session: Session,
    name: Annotated[str, typer.Argument(help="The key's name; with --count the names' prefix.", show_default=False)],
    namespace: Annotated[str, typer.Option(help="Its namespace.")] = "production",
    count: Annotated[int | None, typer.Option(help="Create NAME-1 … NAME-COUNT, all or none.", min=1, max=256)] = None,
    exportable: Annotated[bool, typer.Option("--exportable", help="Allow its owner to export it later.")] = False,
    metadata: Annotated[list[str] | None, typer.Option(help="A note, name=value; repeatable.")] = None,
) -> None:
    """Create a key, or several at once.

    \b
    Examples:
      popsigner keys create sequencer
      popsigner keys create blob-worker --count 4 --namespace staging --metadata chain=celestia
    """
    from .output import print_fields, print_json, print_table

    notes = entries(metadata or [], "--metadata", as_json=session.as_json)
    if count is None:
        key = session.client.keys.create(name=name, namespace=namespace, exportable=exportable, metadata=notes)
        (print_json if session.as_json else print_fields)(key)
        return
    keys = session.client.keys.create_batch(
        prefix=name, count=count, namespace=namespace, exportable=exportable, metadata=notes
    )
    if session.as_json:
        print_json({"keys": keys})
    else:
        print_table(_COLUMNS, ([getattr(key, column) for column in _COLUMNS] for key in keys))


@app.command("list")
@connected
def list_keys(
    session: Session,
    namespace: Annotated[str, typer.Option(help="Only keys of this namespace.")] = "",
    state: Annotated[State | None, typer.Option(help="Only keys in this state; by default all but destroyed.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Only keys with this note, name=value; repeatable.")] = None,
    name_prefix: Annotated[str, typer.Option(help="Only keys whose name begins so.")] = "",
    limit: Annotated[int | None, typer.Option(help="At most this many.", min=1)] = None,
) -> None:
    """List the keys, oldest first.

    \b
    Examples:
      popsigner keys list
      popsigner keys list --namespace production --label chain=celestia --json
    """
    from ..gen.popsigner.v1 import KeyState
    from .output import print_json, print_table

    keys = session.client.keys.list(
        namespace=namespace,
        state=KeyState[state.name] if state else KeyState.STATE_UNSPECIFIED,
        labels=entries(label or [], "--label", as_json=session.as_json),
        name_prefix=name_prefix,
    )
    found = list(islice(keys, limit))
    if session.as_json:
        print_json({"keys": found})
    else:
        print_table(_COLUMNS, ([getattr(key, column) for column in _COLUMNS] for key in found))


@app.command()
@connected
def show(session: Session, key: KeyName) -> None:
    """Show a key: public key, addresses, state.

    \b
    Examples:
      popsigner keys show production/sequencer
      popsigner keys show production/sequencer --json | jq -r .address
    """
    from .output import print_fields, print_json

    found = session.client.keys.get(key)
    (print_json if session.as_json else print_fields)(found)
