"""A bundle from a POP."""

from collections.abc import Callable

from ..client import Client
from ..keyfiles.errors import NotThisFormat
from .bundle import Bundle, entries_of


def download(client: Client, progress: Callable[[int], None] = lambda _keys: None) -> Bundle:
    """All copies of the client's organization. `progress` hears how many keys there are so far.

    Raises RecoveryMissing, ApiKeyRestricted, InvalidCursor (the recipient was changed meanwhile), VaultUnavailable.
    """
    recipient, entries, uncovered = "", [], []
    for page in client.recovery.copies():
        recipient = page.recipient
        entries += entries_of(page.copies)
        try:
            uncovered += [bytes.fromhex(public_key) for public_key in page.uncovered]
        except ValueError:
            raise NotThisFormat("the POP's answer is not a list of recovery copies") from None
        progress(len(entries))
    return Bundle(recipient=recipient, entries=tuple(entries), uncovered=tuple(uncovered))
