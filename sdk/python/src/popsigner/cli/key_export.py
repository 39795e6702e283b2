"""popsigner keys export: a sealed private key, as the POP answers it. With it `popsigner keys` is complete."""

from pathlib import Path
from typing import Annotated

import typer

from . import key_life  # noqa: F401 - it adds its commands to the same app
from .failures import ExitCode, fail
from .keys import KeyName, app
from .session import Session, connected
from .values import new_file

# Of RSA with 8192 bits.
_LONGEST = 4096


@app.command()
@connected
def export(
    session: Session,
    key: KeyName,
    recipient: Annotated[
        str,
        typer.Option(help="Who can open it: age1…, or @ and the file of an RSA public key in PEM.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new file.", metavar="FILE", show_default=False)],
    key_version: Annotated[int, typer.Option(help="Which version; 0 is the newest.", min=0)] = 0,
) -> None:
    """Export the private key of an exportable key, sealed to a public key: nobody but its owner can open the file.

    It is an age file (`age -d` opens it), or for an RSA key RSA-OAEP of an AES-256 key and AES-KWP of the private key.
    `popsigner migrate export` writes the formats of other programs instead.

    \b
    Examples:
      popsigner keys export production/bridge --out bridge.age \\
          --recipient age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p
      popsigner keys export production/bridge --recipient @hsm.pem --out bridge.wrapped --json
    """
    from ..errors import InternalError
    from .output import print_json, text

    if out.exists():
        # Not only after the POP has written its audit row.
        fail(f"{out} exists; name a new file", code=ExitCode.USAGE, as_json=session.as_json)
    if recipient.startswith("@"):
        recipient = _public_key(Path(recipient[1:]), as_json=session.as_json)
    versions = (key_version,) if key_version else ()
    answer = session.client.keys.export(key, recipient=recipient, versions=versions)
    if len(answer.versions) != 1:
        raise InternalError("the POP exported another number of versions than was asked for")
    (sealed,) = answer.versions
    with new_file(out, as_json=session.as_json) as file:
        file.write(sealed.ciphertext)
    told = {"file": str(out), "wrapping": answer.wrapping, "version": sealed.version, "public_key": sealed.public_key}
    if session.as_json:
        print_json(told)
    else:
        for name, value in told.items():
            typer.echo(f"{name}: {text(value)}")


def _public_key(path: Path, *, as_json: bool) -> str:
    """The PEM text of a file. Raises typer.Exit."""
    try:
        with path.open(encoding="ascii") as file:
            content = file.read(_LONGEST)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not PEM"
        fail(f"{path} cannot be read: {reason}", code=ExitCode.USAGE, as_json=as_json)
    if "PRIVATE KEY" in content:
        fail(
            f"{path} holds a private key, which was not sent; name the public key", code=ExitCode.USAGE, as_json=as_json
        )
    return content
