"""RecoveryService: copies of every private key, sealed to a public key whose private part the organization keeps."""

from dataclasses import dataclass

from ..gen.popsigner.v1 import (
    CancelRecoveryChangeRequest,
    CancelRecoveryChangeResponse,
    GetRecoveryRequest,
    GetRecoveryResponse,
    ListRecoveryCopiesRequest,
    ListRecoveryCopiesResponse,
    Recovery,
    RecoveryCopy,
    SetRecoveryRecipientRequest,
    SetRecoveryRecipientResponse,
)
from . import Call, Page, Repeat, Rpc, call, present

_SERVICE = "/popsigner.v1.RecoveryService/"
GET = Rpc(_SERVICE + "GetRecovery", GetRecoveryRequest, GetRecoveryResponse, Repeat.ALWAYS)
# Either changes nothing the second time; sent again late, it would undo what another owner did in between.
SET = Rpc(_SERVICE + "SetRecoveryRecipient", SetRecoveryRecipientRequest, SetRecoveryRecipientResponse, Repeat.NEVER)
CANCEL = Rpc(_SERVICE + "CancelRecoveryChange", CancelRecoveryChangeRequest, CancelRecoveryChangeResponse, Repeat.NEVER)
COPIES = Rpc(_SERVICE + "ListRecoveryCopies", ListRecoveryCopiesRequest, ListRecoveryCopiesResponse, Repeat.ALWAYS)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedCopies:
    """Some keys' copies, all sealed to `recipient`. `uncovered` are the public keys (33 bytes as 66 hexadecimal
    characters) of versions that have none."""

    recipient: str
    copies: tuple[RecoveryCopy, ...]
    uncovered: tuple[str, ...]


def get(*, timeout: float | None = None) -> Call[Recovery]:
    """The recipient, a change that waits, and how many keys have copies."""
    return call(GET, GetRecoveryRequest(), lambda answer: present(answer.recovery), timeout)


def set_recipient(recipient: str | None, *, timeout: float | None = None) -> Call[Recovery]:
    """Register an age X25519 recipient (`age1…`, 62 characters), replace the one that there is, or with None remove it.

    What waits, and until when, is in the answer's `change`. Raises InvalidField, RecoveryChangeWaiting,
    RecoveryMissing (there is none to remove), RoleMissing.
    """
    if recipient == "":
        # An empty file must not remove what an empty text would.
        raise ValueError("the recipient is empty; None removes the one that is registered")
    request = SetRecoveryRecipientRequest(recipient=recipient or "")
    return call(SET, request, lambda answer: present(answer.recovery), timeout)


def cancel(*, timeout: float | None = None) -> Call[Recovery]:
    """Cancel the change that waits. Raises RecoveryMissing (nothing waits), RoleMissing."""
    return call(CANCEL, CancelRecoveryChangeRequest(), lambda answer: present(answer.recovery), timeout)


def page(cursor: str, /, *, page_size: int = 0, timeout: float | None = None) -> Call[Page[SealedCopies]]:
    """The copies of all keys that are not destroyed, at most 100 keys at a time, oldest key first.

    Raises RecoveryMissing, ApiKeyRestricted, InvalidCursor (the recipient was changed meanwhile), VaultUnavailable.
    """
    return call(COPIES, ListRecoveryCopiesRequest(page_size=page_size, cursor=cursor), _page, timeout)


def _page(answer: ListRecoveryCopiesResponse) -> Page[SealedCopies]:
    copies = SealedCopies(recipient=answer.recipient, copies=tuple(answer.copies), uncovered=tuple(answer.uncovered))
    return Page(entries=(copies,), next_cursor=answer.next_cursor)
