"""What an operator can put right: one sentence and one exit code each."""

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of `popsigner up`, `backup` and `restore`. 2 (wrong options) is typer's own."""

    FAILED = 1
    PORT_TAKEN = 10
    IN_USE = 11
    OTHER_VERSION = 12
    UNSEAL_KEY = 13
    DISK_FULL = 14
    NO_PERMISSION = 15
    ENGINE_REFUSED = 16
    ARCHIVE_UNREADABLE = 17
    RESTORE_UNFINISHED = 18


class NodeError(Exception):
    """A mistake or a failure that ends the node; the text is one sentence for the operator, without any secret."""

    def __init__(self, sentence: str, *, code: Exit = Exit.FAILED) -> None:
        super().__init__(sentence)
        self.code = code


def root_cause(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first mistake that has a sentence; without one, the first failure as it is."""
    named = failures.subgroup(NodeError)
    failure: BaseException = named or failures
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
