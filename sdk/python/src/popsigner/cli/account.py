"""popsigner sessions …, popsigner account …"""

from pathlib import Path
from typing import Annotated

import typer

from .session import Session, Yes, confirm, connected, typed
from .values import new_file

sessions = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
account = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@sessions.command("list")
@connected
def list_sessions(session: Session) -> None:
    """List your live sessions, newest first. Needs a login.

    \b
    Examples:
      popsigner sessions list
    """
    from .output import print_json, print_table

    found = session.client.sessions.list()
    if session.as_json:
        print_json({"sessions": found})
    else:
        columns = ("id", "created_at", "last_used_at", "expires_at", "ip_address", "user_agent", "current")
        print_table(columns, ([getattr(each, column) for column in columns] for each in found))


@sessions.command()
@connected
def revoke(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="ID", help="Its id, sess_….", show_default=False)],
    yes: Yes = False,
) -> None:
    """End one of your sessions, at once. Needs a login.

    \b
    Examples:
      popsigner sessions revoke sess_01HXYZ… --yes
    """
    from .output import print_json

    confirm(f"End the session {name}?", yes=yes, as_json=session.as_json)
    session.client.sessions.revoke(name)
    if session.as_json:
        print_json({"revoked": name})
    else:
        typer.echo(f"revoked {name}")


@account.command()
@connected
def export(
    session: Session,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The new ZIP file (mode 0600).", metavar="FILE", show_default=False)
    ],
) -> None:
    """Write everything that the POP keeps about you to a ZIP file. Needs a login.

    \b
    Examples:
      popsigner account export -o me.zip
    """
    from .output import print_json

    size = 0
    with new_file(output, as_json=session.as_json) as file:
        for chunk in session.client.account.export():
            size += file.write(chunk)
    if session.as_json:
        print_json({"file": str(output), "bytes": size})
    else:
        typer.echo(f"wrote {size} bytes to {output}")


@account.command()
@connected
def delete(
    session: Session,
    given: Annotated[
        str, typer.Option("--confirm", help="Your e-mail address in full, instead of typing it.", metavar="EMAIL")
    ] = "",
) -> None:
    """Erase your personal data and your memberships; this cannot be undone. Needs a login.

    \b
    Examples:
      popsigner account delete
      popsigner account delete --confirm alice@example.com
    """
    from .output import print_json, text

    def question() -> str:
        me = session.client.whoami()
        return f"Erase what the POP keeps about {text(me.email or me.id)}, for good? Type your e-mail address"

    email = typed(given, question, as_json=session.as_json)
    session.client.account.delete(email=email)
    if session.credential is not None:
        with session.credential.file.locked():
            session.credential.file.remove()
    if session.as_json:
        print_json({"deleted": email})
    else:
        typer.echo(f"deleted {email}")
