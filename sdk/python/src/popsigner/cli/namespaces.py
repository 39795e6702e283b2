"""popsigner namespaces …"""

from typing import Annotated

import typer

from .session import Session, Yes, confirm, connected

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.command("create")
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


@app.command("list")
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


@app.command("delete")
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
