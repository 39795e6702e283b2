"""Between the contract's messages of the recovery kit and their values."""

from popsigner_server.domain.ids import Prefix, show
from popsigner_server.gen.popsigner.v1 import recovery_pb2
from popsigner_server.keys.copies import Copy, Page
from popsigner_server.keys.recovery import Recovery, Waiting
from popsigner_server.tenancy import Organization
from popsigner_server.transport.convert import timestamp

_ASKING = {"api_key": Prefix.API_KEY, "user": Prefix.USER}


def recovery_to_proto(recovery: Recovery) -> recovery_pb2.Recovery:
    return recovery_pb2.Recovery(
        recipient=recovery.recipient,
        since=timestamp(recovery.since),
        change=_change_to_proto(recovery.change) if recovery.change is not None else None,
        keys=recovery.keys,
        covered=recovery.covered,
    )


def _change_to_proto(change: Waiting) -> recovery_pb2.RecoveryChange:
    return recovery_pb2.RecoveryChange(
        recipient=change.recipient,
        announced_at=timestamp(change.announced_at),
        effective_at=timestamp(change.effective_at),
        announced_by=_announced_by(change),
    )


def announcement(organization: Organization, change: Waiting) -> str:
    """What every owner is to know of a change that waits: who, what, when, and how to stop it."""
    what = f"all its private keys are sealed to {change.recipient}" if change.recipient else "no recovery copy is kept"
    return (
        f"Recovery of {organization.slug}: from {change.effective_at:%Y-%m-%d %H:%M} UTC on {what}, as"
        f" {_announced_by(change)} asked on {change.announced_at:%Y-%m-%d %H:%M} UTC; until then any owner can stop it,"
        " with `popsigner recovery cancel` or CancelRecoveryChange."
    )


def _announced_by(change: Waiting) -> str:
    return show(_ASKING[change.announced_by_kind], change.announced_by)


def page_to_proto(page: Page) -> recovery_pb2.ListRecoveryCopiesResponse:
    return recovery_pb2.ListRecoveryCopiesResponse(
        copies=[_copy_to_proto(copy) for copy in page.copies],
        next_cursor=page.following,
        recipient=page.recipient,
        uncovered=[public_key.hex() for public_key in page.uncovered],
    )


def _copy_to_proto(copy: Copy) -> recovery_pb2.RecoveryCopy:
    return recovery_pb2.RecoveryCopy(
        label=copy.label,
        versions=[
            recovery_pb2.RecoveryVersion(public_key=public_key.hex(), ciphertext=ciphertext)
            for public_key, ciphertext in copy.versions
        ],
    )
