"""popsigner invitations …"""

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from .session import Session, Yes, confirm, connected
from .values import RoleName, expiry, read_secret

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.command()
@connected
def create(
    session: Session,
    email: Annotated[str, typer.Argument(help="The person's e-mail address.", show_default=False)],
    role: Annotated[RoleName, typer.Option(help="What the person will be.")] = RoleName.VIEWER,
    expires_in: Annotated[str, typer.Option(help="How long it can be accepted: 12h, 3d; by default 7 days.")] = "",
) -> None:
    """Invite a person, and show the invitation's link, this once. The POP sends no mail: hand it over yourself.

    \b
    Examples:
      popsigner invitations create alice@example.com --role operator
      popsigner invitations create bob@example.com --role admin --expires-in 24h --json
    """
    from .output import plain, print_fields, print_json

    invited = session.client.invitations.create(
        email=email,
        role=role.value_of(),
        expires_at=expiry(expires_in, "--expires-in", as_json=session.as_json),
    )
    base = session.client.endpoint.http
    shown = {"token": invited.token}
    if base:
        # A socket has no address that somebody else could open.
        shown = {"link": f"{base}/invitation?token={quote(invited.token, safe='')}", **shown}
    if session.as_json:
        print_json({"invitation": plain(invited.invitation), **shown})
        return
    print_fields(invited.invitation)
    for label, value in shown.items():
        typer.echo(f"{label}: {value}")
    typer.echo("Hand it over now: it is not shown again.", err=True)


@app.command("list")
@connected
def list_invitations(session: Session) -> None:
    """List the invitations that can still be accepted, oldest first.

    \b
    Examples:
      popsigner invitations list
    """
    from .output import print_json, print_table

    found = list(session.client.invitations.list())
    if session.as_json:
        print_json({"invitations": found})
    else:
        columns = ("id", "email", "role", "created_at", "expires_at")
        print_table(columns, ([getattr(each, column) for column in columns] for each in found))


@app.command()
@connected
def revoke(
    session: Session,
    invitation: Annotated[str, typer.Argument(metavar="ID", help="Its id, inv_….", show_default=False)],
    yes: Yes = False,
) -> None:
    """Take an invitation back.

    \b
    Examples:
      popsigner invitations revoke inv_01HXYZ… --yes
    """
    from .output import print_json

    confirm(f"Take the invitation {invitation} back?", yes=yes, as_json=session.as_json)
    session.client.invitations.revoke(invitation)
    if session.as_json:
        print_json({"revoked": invitation})
    else:
        typer.echo(f"revoked {invitation}")


@app.command()
@connected
def accept(
    session: Session,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the invitation's token; by default stdin.", metavar="FILE")
    ] = None,
) -> None:
    """Accept an invitation, as the person who is logged in. Needs a login.

    \b
    Examples:
      popsigner invitations accept
      popsigner invitations accept --token-file invitation.txt
    """
    from .output import plain, print_fields, print_json

    joined = session.client.invitations.accept(read_secret(token_file, "invitation's token", as_json=session.as_json))
    if session.as_json:
        print_json({"organization": plain(joined.organization), "member": plain(joined.member)})
        return
    print_fields(joined.organization)
    typer.echo(f"role: {joined.member.role.name}")
    typer.echo(f"`popsigner org use {joined.organization.slug}` makes it the one that is meant.", err=True)
