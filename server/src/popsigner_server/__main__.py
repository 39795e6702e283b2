"""The `popsigner-server` command: migrate, bootstrap, serve."""

import asyncio
import json
import sys
from typing import Annotated

import typer
from sqlalchemy.exc import OperationalError

from popsigner_server.settings import DatabaseSettings, Settings, SettingsError

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
    from popsigner_server.domain.ids import Prefix, show
    from popsigner_server.storage.engine import Database
    from popsigner_server.tenancy.bootstrap import Founded
    from popsigner_server.tenancy.bootstrap import bootstrap as run

    settings = DatabaseSettings.read()

    async def found() -> Founded:
        database = Database.opened(settings)
        try:
            return await run(database, name=organization, environment=settings.environment)
        finally:
            await database.close()

    founded = asyncio.run(found())
    answer = {"organization": show(Prefix.ORGANIZATION, founded.organization_id), "api_key": founded.api_key}
    typer.echo(json.dumps(answer))


@app.command()
def serve() -> None:
    """Serve until SIGTERM, then drain and end with 0."""
    from popsigner_server.app import serve as run
    from popsigner_server.telemetry.logs import configure_logs

    settings = Settings.read()
    configure_logs(level=settings.log_level, style=settings.log_format)
    asyncio.run(run(settings))


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
