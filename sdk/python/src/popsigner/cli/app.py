"""All commands in one place."""

import json

import typer

from . import keys, organization, signing, up
from .session import AsJson

app = typer.Typer(
    no_args_is_help=True,
    # Decorated help takes 0.4 s to load what it is decorated with.
    rich_markup_mode=None,
    # A traceback with local variables would show what was signed.
    pretty_exceptions_enable=False,
    help="Sign with keys that never leave OpenBao.\n\n"
    "The POP is found at --endpoint or $POPSIGNER_ENDPOINT (127.0.0.1:8080 by default); the API key is read from "
    "--api-key-file, $POPSIGNER_API_KEY or $POPSIGNER_API_KEY_FILE.\n\n"
    "Exit codes: 0 done, 1 refused, 2 usage, 3 not allowed, 4 not found, 5 conflict, 6 quota or rate, 7 unavailable, "
    "8 signature invalid.",
)
app.command("up", context_settings=up.PASS_ON)(up.up)
app.add_typer(keys.app, name="keys", help="Create, list, show and delete keys.")
app.command("sign")(signing.sign)
app.command("verify")(signing.verify)
app.add_typer(organization.namespaces, name="namespaces", help="Create, list and delete namespaces.")
app.add_typer(organization.api_keys, name="api-keys", help="Create, list and revoke API keys.")
app.add_typer(organization.audit, name="audit", help="Read the audit trail.")
app.command("usage")(organization.usage)


@app.command("version")
def show_version(as_json: AsJson = False) -> None:
    """Show the version of this program.

    \b
    Examples:
      popsigner version
    """
    from importlib.metadata import version

    if as_json:
        typer.echo(json.dumps({"version": version("popsigner")}))
    else:
        typer.echo(version("popsigner"))
