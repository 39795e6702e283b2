"""The `popsigner` command. Nothing here imports gRPC before a command needs it: `popsigner --help` is quick."""


def main() -> None:
    """Run the command line and end the process with one of the exit codes of `popsigner.cli.failures.ExitCode`."""
    from .app import app

    app(prog_name="popsigner")
