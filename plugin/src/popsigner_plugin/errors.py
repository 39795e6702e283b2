"""What the engine refuses, with the HTTP status that the caller gets."""


class EngineError(Exception):
    """A refusal: one sentence for the caller, and its HTTP status (400, 404, 405 or 409)."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class BadInput(EngineError):
    """The request itself is wrong; the same request will be wrong again."""

    def __init__(self, sentence: str) -> None:
        super().__init__(400, sentence)


class UnknownKey(EngineError):
    """There is no such key (any more)."""

    def __init__(self, name: str) -> None:
        super().__init__(404, f"There is no key {name!r}.")


class Conflict(EngineError):
    """The key's state forbids it: the name is taken, the key is disabled, deletion is not allowed."""

    def __init__(self, sentence: str) -> None:
        super().__init__(409, sentence)


class StorageError(Exception):
    """OpenBao's storage refused; the text is OpenBao's own.

    The text goes back to OpenBao unchanged: by the words "cannot write to readonly storage" a standby knows that it
    must forward the request to the leader.
    """
