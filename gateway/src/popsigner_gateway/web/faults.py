"""What goes wrong for the person or program in front of this application, in one shape."""

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Fault(Exception):
    """A refusal. It becomes an error page, or the JSON of RFC 6749 5.2.

    status: of HTTP. reason: a name of ErrorReason, or of the table in docs/login.md. sentence: what is wrong. advice:
    what to do. retry_after: seconds, 0 where waiting does not help.
    """

    status: int
    reason: str
    sentence: str
    advice: str
    retry_after: int = 0

    def __str__(self) -> str:
        return f"{self.reason}: {self.sentence}"


def begin_again(sentence: str) -> Fault:
    """A log-in that cannot go on."""
    return Fault(status=400, reason="LOGIN_STATE", sentence=sentence, advice="Begin the log-in again.")


def provider_failed(sentence: str) -> Fault:
    """A provider that says what it must not say."""
    return Fault(
        status=502,
        reason="PROVIDER_FAULTY",
        sentence=sentence,
        advice="Begin the log-in again. If it happens again, tell your operator.",
    )


def provider_silent(sentence: str) -> Fault:
    """A provider that does not answer, or may not be asked."""
    return Fault(
        status=503,
        reason="PROVIDER_UNAVAILABLE",
        sentence=sentence,
        advice="Try again in a minute. If it happens again, tell your operator.",
        retry_after=10,
    )


def malformed(sentence: str) -> Fault:
    return Fault(status=400, reason="MALFORMED_REQUEST", sentence=sentence, advice="Go back and try again.")
