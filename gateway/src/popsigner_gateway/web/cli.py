"""The `popsigner-gateway` command."""

import asyncio
import sys

import typer

from popsigner_gateway.web.settings import Settings, SettingsError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The POP's web application: log-in, its pages, and the OAuth endpoints of programs. Its settings are "
    "environment variables (POPSIGNER_GATEWAY_…): see docs/login.md.",
)


@app.callback()
def _commands() -> None:
    """Without this, one command alone would take the place of the whole."""


@app.command()
def serve() -> None:
    """Serve until SIGTERM, then drain and end with 0. Put Envoy in front of it, and nothing else.

    Example: POPSIGNER_GATEWAY_LISTEN=unix:///run/popsigner/gateway.sock
    POPSIGNER_GATEWAY_SERVER=unix:///run/popsigner/server.sock
    POPSIGNER_GATEWAY_SECRET_FILE=/run/secrets/gateway_secret
    POPSIGNER_GATEWAY_PUBLIC_URL=https://pop.example.com popsigner-gateway serve
    """
    from popsigner_gateway.web.app import serve as run
    from popsigner_gateway.web.logs import configure_logs

    settings = Settings.read()
    configure_logs(level=settings.log_level, style=settings.log_format)
    asyncio.run(run(settings))


def main() -> None:
    """Run the command; a mistake of the operator's is one sentence and no stack."""
    try:
        app()
    except SettingsError as error:
        sys.exit(_say(str(error), 2))
    except OSError as error:
        sys.exit(_say(str(error), 1))


def _say(sentence: str, code: int) -> int:
    typer.echo(f"popsigner-gateway: {sentence}", err=True)
    return code


if __name__ == "__main__":
    main()
