"""What every failure has in common, and how a reason finds its class. The classes themselves are in
`popsigner.errors`."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from grpc import StatusCode

_FAMILIES: dict[StatusCode, type["PopsignerError"]] = {}
_REASONS: dict[str, type["PopsignerError"]] = {}


@dataclass(frozen=True, slots=True)
class Violation:
    """What exactly was wrong: a field of the request (InvalidField), or a quota (QuotaExceeded)."""

    subject: str
    description: str


class PopsignerError(Exception):
    """A call, or one item of a batch, was refused.

    `message` is one sentence for a person; `reason` the name of the contract's ErrorReason, empty where the POP gave
    none (it was not reached, for example); `code` the gRPC status; `retry_after` seconds to wait at least before a
    retry; `metadata` and `violations` what else the POP said.
    """

    default_code: ClassVar[StatusCode] = StatusCode.UNKNOWN
    default_reason: ClassVar[str] = ""

    def __init_subclass__(cls, *, code: StatusCode | None = None, reason: str = "") -> None:
        if code is not None:
            cls.default_code = code
            _FAMILIES[code] = cls
        if reason:
            cls.default_reason = reason
            _REASONS[reason] = cls

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        code: StatusCode | None = None,
        retry_after: float | None = None,
        metadata: Mapping[str, str] = MappingProxyType({}),
        violations: tuple[Violation, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = self.default_reason if reason is None else reason
        self.code = self.default_code if code is None else code
        self.retry_after = retry_after
        self.metadata = metadata
        self.violations = violations

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later: the POP was unavailable, or asked to wait."""
        return self.code is StatusCode.UNAVAILABLE or (
            self.code is StatusCode.RESOURCE_EXHAUSTED and self.retry_after is not None
        )


def error_class(reason: str, code: StatusCode) -> type[PopsignerError]:
    """The class of a reason; for one that is not known here, the family of its status code."""
    return _REASONS.get(reason) or _FAMILIES.get(code, PopsignerError)
