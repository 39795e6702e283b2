"""popsigner up, backup and restore: the commands themselves come with the distribution popsigner-node."""

import typer

from .failures import ExitCode, fail

GROUP = "popsigner.commands"


def up(context: typer.Context) -> None:
    """Run a whole POP on this machine.

    PostgreSQL, OpenBao, server and gateway start as children of this process; Ctrl-C ends them.

    \b
    Examples:
      popsigner up
      popsigner up --port 8080 --data-dir ~/pop
    """
    _hand_over("up", context)


def backup(context: typer.Context) -> None:
    """Make a backup of the POP on this machine.

    \b
    Example:
      popsigner backup --to pop.age --recipient age1...
    """
    _hand_over("backup", context)


def restore(context: typer.Context) -> None:
    """Make a POP from a backup.

    \b
    Example:
      popsigner restore pop.age --identity identity.txt --data-dir ~/pop
    """
    _hand_over("restore", context)


def _hand_over(name: str, context: typer.Context) -> None:
    # Looking for entry points reads every installed distribution: only here, never for `popsigner --help`.
    from importlib.metadata import entry_points

    found = entry_points(group=GROUP, name=name)
    if not found:
        fail(
            "this needs the node, which is not installed here; install popsigner-node next to popsigner",
            code=ExitCode.USAGE,
            as_json=False,
        )
    command = next(iter(found)).load()
    if not isinstance(command, typer.Typer):
        wrapped = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        wrapped.command()(command)
        command = wrapped
    command(args=context.args, prog_name=f"popsigner {name}")
