"""The `popsigner-server` command: migrate, bootstrap, serve, and what the operator does with organizations and with the
POP's own identity providers."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from sqlalchemy.exc import OperationalError

from popsigner_server.settings import DatabaseSettings, OperatorSettings, Settings, SettingsError

if TYPE_CHECKING:
    from popsigner_server.storage.engine import Database
    from popsigner_server.tenancy.bootstrap import Founded

T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The POPSigner gRPC server. Its settings are environment variables (POPSIGNER_…): see docs/settings.md.",
)


@app.command()
def migrate() -> None:
    """Bring the database to the newest schema. Safe to repeat, and from several processes at once.

    Example: POPSIGNER_DATABASE_URL=postgresql://popsigner@db/popsigner popsigner-server migrate
    """
    from popsigner_server.storage.engine import conninfo
    from popsigner_server.storage.migrate import migrate as run

    run(conninfo(DatabaseSettings.read()))


@app.command()
def bootstrap(
    organization: Annotated[str, typer.Option(help="The name of the first organization.")] = "default",
) -> None:
    """Found the first organization with its owner API key, unless there is one, and print one line of JSON.

    Example: popsigner-server bootstrap --organization "My rollup"
    """
    from popsigner_server.tenancy.bootstrap import bootstrap as run

    settings = DatabaseSettings.read()
    _print_founded(
        _with_database(settings, lambda database: run(database, name=organization, environment=settings.environment))
    )


@app.command(name="create-organization")
def create_organization(
    name: Annotated[str, typer.Option(help="What people call it, 1 to 100 characters.")],
    slug: Annotated[
        str | None, typer.Option(help="Its name in addresses, a-z, 0-9 and -; made of its name if left out.")
    ] = None,
    plan: Annotated[str, typer.Option(help="A plan of the catalogue.")] = "free",
) -> None:
    """Found an organization with an owner API key, and print one line of JSON. The key is shown this once.

    Example: popsigner-server create-organization --name "Second rollup" --plan pro
    """
    from popsigner_server.app import plans_of
    from popsigner_server.tenancy.operator import create_organization as run

    settings = DatabaseSettings.read()
    plans = plans_of(settings)
    if plan not in plans.names:
        raise ValueError(f"the catalogue has no plan {plan}; it has {', '.join(plans.names)}.")
    _print_founded(
        _with_database(
            settings,
            lambda database: run(database, name=name, slug=slug, plan=plans.of(plan), environment=settings.environment),
        )
    )


@app.command(name="owner-key")
def owner_key(
    organization: Annotated[str, typer.Option(help="The organization: its id (org_…) or its slug.")],
) -> None:
    """Make a new owner API key for an organization whose owner lost theirs, and print one line of JSON. The old keys
    stay as they are.

    Example: popsigner-server owner-key --organization second-rollup
    """
    from popsigner_server.tenancy.operator import issue_owner_key as run

    settings = DatabaseSettings.read()
    _print_founded(
        _with_database(settings, lambda database: run(database, organization, environment=settings.environment))
    )


@app.command(name="list-organizations")
def list_organizations() -> None:
    """Print every organization, oldest first, one line of JSON each.

    Example: popsigner-server list-organizations
    """
    from popsigner_server.domain.ids import Prefix, show
    from popsigner_server.tenancy.operator import list_organizations as run

    for found in _with_database(DatabaseSettings.read(), run):
        times = {"created_at": found.created_at, "deleted_at": found.deleted_at, "erase_at": found.erase_at}
        line = {
            "organization": show(Prefix.ORGANIZATION, found.id),
            "name": found.name,
            "slug": found.slug,
            "plan": found.plan,
            "members": found.members,
            **{name: None if time is None else time.isoformat() for name, time in times.items()},
        }
        typer.echo(json.dumps(line, ensure_ascii=False))


@app.command(name="set-plan")
def set_plan(
    organization: Annotated[str, typer.Option(help="The organization: its id (org_…) or its slug.")],
    plan: Annotated[str, typer.Option(help="A plan of the catalogue, e.g. pro.")],
) -> None:
    """Give an organization another plan, and print one line of JSON. What exists stays; only new things are refused.

    Example: popsigner-server set-plan --organization my-rollup --plan pro
    """
    from popsigner_server.app import plans_of
    from popsigner_server.domain.ids import Prefix, show
    from popsigner_server.storage.engine import Database
    from popsigner_server.tenancy.plans import PlanChange
    from popsigner_server.tenancy.plans import set_plan as run

    settings = DatabaseSettings.read()
    plans = plans_of(settings)

    async def change() -> PlanChange:
        database = Database.opened(settings)
        try:
            return await run(database, plans, organization=organization, plan=plan)
        finally:
            await database.close()

    changed = asyncio.run(change())
    answer = {"organization": show(Prefix.ORGANIZATION, changed.organization_id), "plan": changed.after}
    typer.echo(json.dumps(answer | {"plan_before": changed.before}))


@app.command(name="add-provider")
def add_provider(
    kind: Annotated[str, typer.Option(help="github, google or oidc.")],
    client_id: Annotated[str, typer.Option(help="The POP's client id there.")],
    client_secret_file: Annotated[
        Path | None, typer.Option(help="File with the POP's client secret there; left out for a public client.")
    ] = None,
    issuer: Annotated[str, typer.Option(help="The issuer, an https URL; github and google have their own.")] = "",
    name: Annotated[str, typer.Option(help="What the log-in page calls it; its host if left out.")] = "",
) -> None:
    """Let the people of an identity provider log in to the whole POP, and print one line of JSON.

    Example: popsigner-server add-provider --kind github --client-id Iv1.8a6 --client-secret-file /run/secrets/github
    """
    from popsigner_server.identity.operator import add

    secret = "" if client_secret_file is None else client_secret_file.read_text().rstrip("\r\n")
    wish = {"kind": kind, "name": name, "issuer": issuer, "client_id": client_id, "client_secret": secret}
    settings = OperatorSettings.read()
    sealing_key = settings.secret(settings.sealing_key_file)
    typer.echo(_with_database(settings, lambda database: add(database, sealing_key, **wish)))


@app.command(name="list-providers")
def list_providers() -> None:
    """Print the POP's own identity providers, oldest first, one line of JSON each.

    Example: popsigner-server list-providers
    """
    from popsigner_server.identity.operator import lines

    for line in _with_database(DatabaseSettings.read(), lines):
        typer.echo(line)


@app.command(name="remove-provider")
def remove_provider(
    provider: Annotated[str, typer.Option(help="Its id, idp_….")],
) -> None:
    """Disconnect one of the POP's own identity providers and end the sessions that began with it, and print one line
    of JSON. Added again, it brings the same people back.

    Example: popsigner-server remove-provider --provider idp_01JD3ZQ5RX8V0Q6K1M2N3P4R5S
    """
    from popsigner_server.identity.operator import remove

    typer.echo(_with_database(DatabaseSettings.read(), lambda database: remove(database, provider)))


@app.command()
def serve() -> None:
    """Serve until SIGTERM, then drain and end with 0."""
    import uvloop

    from popsigner_server.app import serve as run
    from popsigner_server.telemetry.logs import configure_logs

    settings = Settings.read()
    configure_logs(level=settings.log_level, style=settings.log_format)
    # A tenth less CPU for a signature than asyncio's own loop.
    uvloop.run(run(settings))


def _with_database(settings: DatabaseSettings, work: "Callable[[Database], Awaitable[T]]") -> T:
    from popsigner_server.storage.engine import Database

    async def run() -> T:
        database = Database.opened(settings)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())


def _print_founded(founded: "Founded") -> None:
    from popsigner_server.domain.ids import Prefix, show

    typer.echo(
        json.dumps({"organization": show(Prefix.ORGANIZATION, founded.organization_id), "api_key": founded.api_key})
    )


def main() -> None:
    """Run the command; a mistake of the operator's is one sentence and no stack."""
    try:
        app()
    except SettingsError as error:
        sys.exit(_say(str(error), 2))
    except OperationalError as error:
        sys.exit(_say(f"The database does not answer: {str(error.orig).strip()}", 1))
    except ValueError as error:
        # Settings that only their user can judge, e.g. an address.
        sys.exit(_say(str(error), 2))
    except OSError as error:
        sys.exit(_say(str(error), 1))


def _say(sentence: str, code: int) -> int:
    typer.echo(f"popsigner-server: {sentence}", err=True)
    return code


if __name__ == "__main__":
    main()
