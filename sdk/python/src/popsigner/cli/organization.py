"""popsigner org …"""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .failures import ExitCode, fail
from .session import Session, Yes, confirm, connected, typed
from .values import read_secret

if TYPE_CHECKING:
    from ..gen.popsigner.v1 import IdentityProviderKind

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(help="What people call it.", show_default=False)]


class Kind(StrEnum):
    """IdentityProviderKind of the contract, in lower case."""

    OIDC = "oidc"
    GOOGLE = "google"
    GITHUB = "github"

    def value_of(self) -> "IdentityProviderKind":
        from ..gen.popsigner.v1 import IdentityProviderKind

        return IdentityProviderKind[self.name]


@app.command()
@connected
def show(session: Session) -> None:
    """Show the organization.

    \b
    Examples:
      popsigner org show
      popsigner org show --organization celestia-labs --json
    """
    from .output import print_fields, print_json

    (print_json if session.as_json else print_fields)(session.client.organization.get())


@app.command()
@connected
def rename(session: Session, name: Name) -> None:
    """Rename the organization.

    \b
    Examples:
      popsigner org rename "Celestia Labs"
    """
    from .output import print_fields, print_json

    (print_json if session.as_json else print_fields)(session.client.organization.update(name=name))


@app.command()
@connected
def create(session: Session, name: Name) -> None:
    """Found an organization, and own it. Needs a login.

    \b
    Examples:
      popsigner org create "Celestia Labs"
    """
    from .output import print_fields, print_json

    created = session.client.organization.create(name=name)
    (print_json if session.as_json else print_fields)(created)
    if not session.as_json:
        typer.echo(f"`popsigner org use {created.slug}` makes it the one that is meant.", err=True)


@app.command()
@connected
def delete(
    session: Session,
    given: Annotated[
        str, typer.Option("--confirm", help="The organization's name in full, instead of typing it.", metavar="NAME")
    ] = "",
) -> None:
    """Delete the organization: nothing signs any more, and after 7 days its keys are destroyed and its data erased.

    \b
    Examples:
      popsigner org delete
      popsigner org delete --confirm "Celestia Labs"
    """
    from .output import print_fields, print_json, text

    def question() -> str:
        organization = session.client.organization.get()
        return f"Delete {text(organization.name)} ({organization.id}) with all its keys? Type its name"

    name = typed(given, question, as_json=session.as_json)
    (print_json if session.as_json else print_fields)(session.client.organization.delete(name=name))


@app.command()
@connected
def restore(session: Session) -> None:
    """Take the organization's deletion back, within its 7 days.

    \b
    Examples:
      popsigner org restore
    """
    from .output import print_fields, print_json

    (print_json if session.as_json else print_fields)(session.client.organization.restore())


@app.command()
@connected
def use(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its slug or id.", show_default=False)],
) -> None:
    """Choose the organization that the login means where nothing else is said. Needs a login.

    \b
    Examples:
      popsigner org use celestia-labs
    """
    from .output import print_fields, print_json

    if session.credential is None:
        fail(
            "an API key has one organization; this is for a login: unset POPSIGNER_API_KEY and POPSIGNER_API_KEY_FILE",
            code=ExitCode.USAGE,
            as_json=session.as_json,
        )
    with session.without_organization() as client:
        memberships = client.whoami().memberships
    organizations = [each.organization for each in memberships if each.organization is not None]
    chosen = next((each for each in organizations if name in (each.id, each.slug)), None)
    if chosen is None:
        known = ", ".join(each.slug for each in organizations) or "none"
        fail(f"you do not belong to {name}; yours: {known}", code=ExitCode.NOT_FOUND, as_json=session.as_json)
    file = session.credential.file
    with file.locked():
        file.write(replace(file.read(), organization=chosen.id))
    (print_json if session.as_json else print_fields)(chosen)


@app.command("connect-oidc")
@connected
def connect_oidc(
    session: Session,
    client_id: Annotated[str, typer.Option(help="The POP's client id there.", show_default=False)],
    issuer: Annotated[str, typer.Option(help="Its issuer, an https URL; not needed for google and github.")] = "",
    kind: Annotated[Kind, typer.Option(help="What it speaks.")] = Kind.OIDC,
    name: Annotated[str, typer.Option(help="What the log-in page calls it; by default the issuer's host.")] = "",
    client_secret_file: Annotated[
        Path | None, typer.Option(help="File with the POP's client secret there.", metavar="FILE")
    ] = None,
    client_secret_stdin: Annotated[
        bool, typer.Option("--client-secret-stdin", help="Read the client secret from stdin.")
    ] = False,
) -> None:
    """Connect an identity provider, so that people can log in with it.

    A public client has no secret: leave both options out.

    \b
    Examples:
      popsigner org connect-oidc --issuer https://login.example.com --client-id popsigner --client-secret-file secret
      popsigner org connect-oidc --kind github --client-id Iv1.0123 --client-secret-stdin < secret
    """
    from .output import print_fields, print_json

    if client_secret_file is not None and client_secret_stdin:
        fail(
            "choose one of --client-secret-file and --client-secret-stdin", code=ExitCode.USAGE, as_json=session.as_json
        )
    if kind is Kind.OIDC and not issuer:
        fail(
            "--issuer names the provider, as in https://login.example.com", code=ExitCode.USAGE, as_json=session.as_json
        )
    secret = ""
    if client_secret_file is not None or client_secret_stdin:
        secret = read_secret(client_secret_file, "client secret", as_json=session.as_json)
    connected_one = session.client.identity_providers.connect(
        kind=kind.value_of(), name=name, issuer=issuer, client_id=client_id, client_secret=secret
    )
    (print_json if session.as_json else print_fields)(connected_one)


@app.command()
@connected
def providers(session: Session) -> None:
    """List the identity providers, oldest first.

    \b
    Examples:
      popsigner org providers
    """
    from .output import print_json, print_table

    found = session.client.identity_providers.list()
    if session.as_json:
        print_json({"identity_providers": found})
    else:
        columns = ("id", "kind", "name", "issuer", "client_id", "created_at")
        print_table(columns, ([getattr(each, column) for column in columns] for each in found))


@app.command("disconnect-oidc")
@connected
def disconnect_oidc(
    session: Session,
    provider: Annotated[str, typer.Argument(metavar="ID", help="Its id, idp_….", show_default=False)],
    yes: Yes = False,
) -> None:
    """Disconnect an identity provider. The sessions that began with it end; its people stay members.

    \b
    Examples:
      popsigner org disconnect-oidc idp_01HXYZ… --yes
    """
    from .output import print_json

    confirm(f"Disconnect {provider} and end its sessions?", yes=yes, as_json=session.as_json)
    session.client.identity_providers.disconnect(provider)
    if session.as_json:
        print_json({"disconnected": provider})
    else:
        typer.echo(f"disconnected {provider}")
