"""popsigner version"""

import json

import typer

from .session import AsJson


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
