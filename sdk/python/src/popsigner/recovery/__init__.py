"""The way out that needs no server: a bundle of sealed copies in one file, and the private keys that its identity finds
in it.

    from popsigner.recovery import bundle, opening

    found = bundle.read(Path("recovery.bundle"))
    for key in opening.opened(found, identity):
        for version in key.versions:
            with version.secret as secret:
                ...

`popsigner.recovery.bundle` is the format, docs/exit.md has it byte by byte. Every mistake is a KeyFileError of
`popsigner.keyfiles`. It needs the extra: pip install 'popsigner[keyfiles]'.
"""

from . import bundle, opening
from .bundle import Bundle, Entry, SealedVersion
from .opening import Label, OpenedKey, OpenedVersion

__all__ = ["Bundle", "Entry", "Label", "OpenedKey", "OpenedVersion", "SealedVersion", "bundle", "opening"]
