"""What an operator can put right: one sentence and one exit code each."""

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of `popsigner up`. 2 (wrong options) is typer's own."""

    FAILED = 1
    PORT_TAKEN = 10
    IN_USE = 11
    OTHER_VERSION = 12
    UNSEAL_KEY = 13
    DISK_FULL = 14
    NO_PERMISSION = 15
    ENGINE_REFUSED = 16


class NodeError(Exception):
    """A mistake or a failure that ends the node; the text is one sentence for the operator, without any secret."""

    def __init__(self, sentence: str, *, code: Exit = Exit.FAILED) -> None:
        super().__init__(sentence)
        self.code = code
