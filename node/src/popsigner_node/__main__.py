"""`python -m popsigner_node`: `popsigner up` without the rest of the command line client."""

import typer

from popsigner_node.cli import up

if __name__ == "__main__":
    typer.run(up)
