"""popsigner recovery …: the recipient, and the bundle. Opening one is in `recovery_open`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .failures import ExitCode, fail
from .key_files import key_file_errors
from .session import Session, Yes, confirm, connected, typed

if TYPE_CHECKING:
    from ..gen.popsigner.v1 import Recovery
    from ..recovery import Bundle

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

# What is typed of a recipient: its end, where two that look alike differ.
_ENDING = 6
_SECRET = "AGE-SECRET-KEY-"  # noqa: S105 - how an identity begins
_LONGEST = 64 * 1024


@app.command()
@connected
def show(session: Session) -> None:
    """Show the recipient that copies are sealed to, how many keys have one, and what waits.

    \b
    Examples:
      popsigner recovery show
      popsigner recovery show --json | jq .change
    """
    _show(session, session.client.recovery.get())


@app.command("set")
@connected
def set_recipient(
    session: Session,
    recipient: Annotated[
        str, typer.Argument(metavar="[RECIPIENT]", help="What `age-keygen` calls the public key.", show_default=False)
    ] = "",
    recipient_file: Annotated[Path | None, typer.Option(help="Read it from this file.", show_default=False)] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the recipient, and all copies with it.")] = False,
    given: Annotated[
        str,
        typer.Option("--confirm", help="The recipient's last 6 characters, instead of typing them.", metavar="END"),
    ] = "",
) -> None:
    """Register the public key that a copy of every private key is sealed to, replace it, or remove it.

    Whoever has its identity has every key, so it is kept offline and never shown to the POP. What concerns keys that
    exist already waits for some days, while every owner is told and can cancel it.

    \b
    Examples:
      popsigner recovery set age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p
      popsigner recovery set --recipient-file recipient.txt
      popsigner recovery set --remove
    """
    from ..errors import RecoveryMissing

    if (recipient != "") + (recipient_file is not None) + remove != 1:
        fail("give one of RECIPIENT, --recipient-file and --remove", code=ExitCode.USAGE, as_json=session.as_json)
    if recipient_file is not None:
        recipient = _from_file(recipient_file, as_json=session.as_json)
    _refuse_identity(recipient, as_json=session.as_json)
    before = session.client.recovery.get()
    meant = before.recipient if remove else recipient
    if not meant:
        raise RecoveryMissing("no recovery recipient is registered, so there is none to remove")
    ending = typed(given, lambda: _question(before, recipient), as_json=session.as_json)
    if ending != meant[-_ENDING:]:
        fail(
            "that is not how the recipient ends; nothing was changed",
            code=ExitCode.REFUSED,
            as_json=session.as_json,
        )
    _show(session, session.client.recovery.set(None if remove else recipient))


@app.command()
@connected
def cancel(session: Session, yes: Yes = False) -> None:
    """Cancel the change that waits. A first recipient is removed again, with what was sealed to it.

    \b
    Examples:
      popsigner recovery cancel
    """
    confirm("Cancel the change of the recovery recipient that waits?", yes=yes, as_json=session.as_json)
    _show(session, session.client.recovery.cancel())


@app.command()
@connected
def export(
    session: Session,
    to: Annotated[Path, typer.Option("--to", help="A new file.", metavar="FILE", show_default=False)],
) -> None:
    """Write the copies of all keys into one file, which may be published: without the identity it opens to nobody.

    Ends with 9 if keys have no copy yet; the file then names their public keys.

    \b
    Examples:
      popsigner recovery export --to recovery.bundle
    """
    if os.path.lexists(to):
        # Not only after the POP has written its audit row.
        fail(f"{to} exists; name a new file", code=ExitCode.USAGE, as_json=session.as_json)
    with key_file_errors(as_json=session.as_json):
        from ..recovery import bundle
        from ..recovery.download import download

        found = download(session.client, count_keys)
        count_keys(None)
        bundle.write(to, found)
    _tell_bundle(session, to, found)
    if found.uncovered:
        raise typer.Exit(ExitCode.INCOMPLETE)


def _tell_bundle(session: Session, to: Path, found: "Bundle") -> None:
    from .output import print_json

    versions = sum(len(entry.versions) for entry in found.entries)
    if session.as_json:
        print_json(
            {
                "file": str(to),
                "recipient": found.recipient,
                "keys": len(found.entries),
                "versions": versions,
                "uncovered": [public_key.hex() for public_key in found.uncovered],
            }
        )
    else:
        typer.echo(f"{to}: {len(found.entries)} keys with {versions} versions, sealed to {found.recipient}")
    if found.uncovered:
        typer.echo(
            f"NOTE: {len(found.uncovered)} public keys have no copy, so nothing recovers their private keys:", err=True
        )
    for public_key in found.uncovered:
        typer.echo(f"  {public_key.hex()}", err=True)


def count_keys(keys: int | None) -> None:
    """How far it is, over itself on a terminal; None ends it."""
    if sys.stderr.isatty():
        typer.echo("\r\x1b[K" if keys is None else f"\r{keys} keys ", err=True, nl=False)


def _from_file(path: Path, *, as_json: bool) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            lines = [line.strip() for line in file.read(_LONGEST).splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        fail(f"{path} cannot be read: {reason}", code=ExitCode.USAGE, as_json=as_json)
    found = [line for line in lines if line and not line.startswith("#")]
    if len(found) != 1:
        fail(f"{path} does not hold one recipient", code=ExitCode.USAGE, as_json=as_json)
    return found[0]


def _refuse_identity(recipient: str, *, as_json: bool) -> None:
    if recipient.upper().startswith(_SECRET):
        fail(
            "this is the identity, which opens every copy: it was not sent, and must never be; the recipient is what "
            "`age-keygen -y` makes of it (and an identity that was given as an argument should not be used)",
            code=ExitCode.USAGE,
            as_json=as_json,
        )


def _question(before: "Recovery", recipient: str) -> str:
    from .output import text

    if not recipient:
        what = f"Remove the recipient {text(before.recipient)} after the waiting period, with the copies of all keys?"
    elif before.recipient:
        what = f"Seal the copies of all {before.keys} keys to {text(recipient)} after the waiting period?"
    else:
        what = (
            f"Seal a copy of every new private key to {text(recipient)}, and after the waiting period of the "
            f"{before.keys} keys that exist?"
        )
    return f"{what} Whoever has the identity has the keys. Type the last {_ENDING} characters of the recipient"


def _show(session: Session, recovery: "Recovery") -> None:
    from .output import plain, print_json, text

    if session.as_json:
        print_json(recovery)
        return
    shown: dict[str, Any] = plain(recovery)
    change = shown.pop("change")
    for name, value in shown.items():
        typer.echo(f"{name}: {text(value)}")
    if change is None:
        return
    waits = f"the recipient {change['recipient']} for all keys" if change["recipient"] else "the recipient's removal"
    typer.echo(f"waiting: {text(waits)}")
    for name in ("announced_by", "announced_at", "effective_at"):
        typer.echo(f"{name}: {text(change[name])}")
    typer.echo("Until then every owner can stop it: `popsigner recovery cancel`.", err=True)
