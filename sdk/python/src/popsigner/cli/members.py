"""popsigner members …"""

from typing import Annotated

import typer

from .failures import ExitCode, fail, printable
from .session import Session, Yes, confirm, connected
from .values import RoleName

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Person = Annotated[
    str, typer.Argument(metavar="PERSON", help="The person's id, user_…, or e-mail address.", show_default=False)
]


def _user_id(session: Session, person: str) -> str:
    if "@" not in person:
        return person
    found = [each for each in session.client.members.list() if each.email.casefold() == person.casefold()]
    if len(found) != 1:
        many = "several members have" if found else "no member has"
        fail(
            f"{many} the address {person}; `popsigner members list` shows their ids",
            code=ExitCode.NOT_FOUND,
            as_json=session.as_json,
        )
    return found[0].user_id


@app.command("list")
@connected
def list_members(session: Session) -> None:
    """List the members, in the order of their joining.

    \b
    Examples:
      popsigner members list
    """
    from .output import print_json, print_table

    found = list(session.client.members.list())
    if session.as_json:
        print_json({"members": found})
    else:
        columns = ("user_id", "email", "name", "role", "joined_at")
        print_table(columns, ([getattr(each, column) for column in columns] for each in found))


@app.command("set-role")
@connected
def set_role(
    session: Session,
    person: Person,
    role: Annotated[RoleName, typer.Argument(help="What the person may from now on.", show_default=False)],
) -> None:
    """Give a member another role.

    \b
    Examples:
      popsigner members set-role alice@example.com admin
    """
    from .output import print_fields, print_json

    changed = session.client.members.set_role(_user_id(session, person), role.value_of())
    (print_json if session.as_json else print_fields)(changed)


def _removed(session: Session, person: str, user_id: str, *, revoke_api_keys: bool) -> None:
    from .output import print_json

    revoked = session.client.members.remove(user_id, revoke_api_keys=revoke_api_keys)
    if session.as_json:
        print_json({"removed": user_id, "revoked_api_key_ids": revoked})
        return
    typer.echo(f"removed {printable(person)}")
    for api_key in revoked:
        typer.echo(f"revoked {api_key}")


RevokeApiKeys = Annotated[
    bool, typer.Option("--revoke-api-keys", help="Also revoke every API key that the person made.")
]


@app.command()
@connected
def remove(session: Session, person: Person, revoke_api_keys: RevokeApiKeys = False, yes: Yes = False) -> None:
    """Remove a member, at once.

    \b
    Examples:
      popsigner members remove alice@example.com --revoke-api-keys
    """
    keys = " and revoke the API keys that the person made" if revoke_api_keys else ""
    confirm(f"Remove {person}{keys}?", yes=yes, as_json=session.as_json)
    _removed(session, person, _user_id(session, person), revoke_api_keys=revoke_api_keys)


@app.command()
@connected
def leave(session: Session, revoke_api_keys: RevokeApiKeys = False, yes: Yes = False) -> None:
    """Leave the organization. Needs a login.

    \b
    Examples:
      popsigner members leave --organization celestia-labs
    """
    if session.credential is None:
        fail("an API key is no member; log in with `popsigner login`", code=ExitCode.USAGE, as_json=session.as_json)
    me = session.client.whoami()
    if me.organization is None:
        fail(
            "which organization? `popsigner whoami` shows yours; name one with --organization",
            code=ExitCode.USAGE,
            as_json=session.as_json,
        )
    confirm(f"Leave {printable(me.organization.name)} ({me.organization.slug})?", yes=yes, as_json=session.as_json)
    _removed(session, me.email, me.id, revoke_api_keys=revoke_api_keys)
