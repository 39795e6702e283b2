"""What the engine refuses: an HTTP status, a code for programs and a sentence for people."""


class EngineError(Exception):
    """A refusal. Its text is `CODE: sentence`; the code's words are in docs/engine.md and never change.

    OpenBao passes on a status and one text, so the code travels at the text's beginning.
    """

    def __init__(self, status: int, sentence: str, *, code: str) -> None:
        super().__init__(f"{code}: {sentence}")
        self.status = status
        self.code = code


class BadInput(EngineError):
    """The request itself is wrong; the same request will be wrong again."""

    def __init__(self, sentence: str, *, code: str = "BAD_INPUT") -> None:
        super().__init__(400, sentence, code=code)


class UnknownKey(EngineError):
    """There is no such key (any more)."""

    def __init__(self, name: str) -> None:
        super().__init__(404, f"There is no key {name!r}.", code="KEY_UNKNOWN")


class Conflict(EngineError):
    """The state of the key, or of another one, forbids it."""

    def __init__(self, sentence: str, *, code: str) -> None:
        super().__init__(409, sentence, code=code)


class StorageError(Exception):
    """OpenBao's storage refused; the text is OpenBao's own.

    The text goes back to OpenBao unchanged: by the words "cannot write to readonly storage" a standby knows that it
    must forward the request to the leader.
    """
