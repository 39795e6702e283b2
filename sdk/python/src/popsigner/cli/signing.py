"""popsigner sign, popsigner verify"""

import base64
import binascii
import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .failures import ExitCode, fail
from .keys import KeyName
from .session import Session, connected

if TYPE_CHECKING:
    from ..gen.popsigner.v1 import HashAlgorithm, SignatureFormat

_HEX = re.compile(r"(?:0[xX])?((?:[0-9a-fA-F]{2})*)")
_PUBLIC_KEY = re.compile(r"0[23][0-9a-fA-F]{64}|04[0-9a-fA-F]{128}")
_INPUT = "Input"


class Hash(StrEnum):
    """HashAlgorithm of the contract, in lower case."""

    SHA256 = "sha256"
    KECCAK256 = "keccak256"

    def value_of(self) -> "HashAlgorithm":
        from ..gen.popsigner.v1 import HashAlgorithm

        return HashAlgorithm[self.name]


class Format(StrEnum):
    """SignatureFormat of the contract, in lower case."""

    COMPACT = "compact"
    RECOVERABLE = "recoverable"
    DER = "der"

    def value_of(self) -> "SignatureFormat":
        from ..gen.popsigner.v1 import SignatureFormat

        return SignatureFormat[self.name]


class Encoding(StrEnum):
    """How a signature is printed."""

    HEX = "hex"
    BASE64 = "base64"


Data = Annotated[str | None, typer.Argument(help="What to sign; absent: --file, or stdin.", show_default=False)]
File = Annotated[
    Path | None, typer.Option("--file", help="Take the bytes of this file.", metavar="FILE", rich_help_panel=_INPUT)
]
AsHex = Annotated[bool, typer.Option("--hex", help="The input is hexadecimal.", rich_help_panel=_INPUT)]
AsBase64 = Annotated[bool, typer.Option("--base64", help="The input is base64.", rich_help_panel=_INPUT)]
AsText = Annotated[
    bool, typer.Option("--text", help="The input is the message itself (the default).", rich_help_panel=_INPUT)
]
Prehashed = Annotated[
    bool, typer.Option("--prehashed", help="The input is a digest of 32 bytes.", rich_help_panel=_INPUT)
]
HashOption = Annotated[Hash, typer.Option("--hash", help="How the message is hashed.")]
FormatOption = Annotated[Format, typer.Option("--format", help="How the signature is written.")]


def _from_hex(given: str) -> bytes | None:
    found = _HEX.fullmatch("".join(given.split()))
    return bytes.fromhex(found[1]) if found else None


def _from_base64(given: str) -> bytes | None:
    try:
        return base64.b64decode("".join(given.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def _read(data: str | None, file: Path | None, *, as_json: bool) -> bytes:
    if data is not None and file is not None:
        fail("give the data or --file, not both", code=ExitCode.USAGE, as_json=as_json)
    if data is not None:
        return data.encode("utf-8", "surrogateescape")
    try:
        if file is not None:
            return file.read_bytes()
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}", code=ExitCode.USAGE, as_json=as_json)
    if sys.stdin.isatty():
        fail("there is nothing to sign: give the data, --file, or stdin", code=ExitCode.USAGE, as_json=as_json)
    return sys.stdin.buffer.read()


def read_input(
    data: str | None, file: Path | None, *, as_hex: bool, as_base64: bool, as_text: bool, as_json: bool
) -> bytes:
    """The bytes that the options name. Raises typer.Exit where they name none."""
    if as_hex + as_base64 + as_text > 1:
        fail("choose one of --hex, --base64 and --text", code=ExitCode.USAGE, as_json=as_json)
    raw = _read(data, file, as_json=as_json)
    if not (as_hex or as_base64):
        if data is not None and not as_text and data[:2].lower() == "0x":
            # A digest that is signed as text gives a signature that nobody can use.
            fail("the data looks like hexadecimal; say --hex or --text", code=ExitCode.USAGE, as_json=as_json)
        return raw
    given = raw.decode("utf-8", "replace")
    decoded = _from_hex(given) if as_hex else _from_base64(given)
    if decoded is None:
        fail(f"the input is not {'hexadecimal' if as_hex else 'base64'}", code=ExitCode.USAGE, as_json=as_json)
    return decoded


@connected
def sign(
    session: Session,
    key: KeyName,
    data: Data = None,
    file: File = None,
    as_hex: AsHex = False,
    as_base64: AsBase64 = False,
    as_text: AsText = False,
    prehashed: Prehashed = False,
    hash: HashOption = Hash.SHA256,
    format: FormatOption = Format.COMPACT,
    output: Annotated[Encoding, typer.Option(help="How the signature is printed.")] = Encoding.HEX,
    sign_mode: Annotated[str, typer.Option(help="Goes into the audit row, e.g. SIGN_MODE_DIRECT.")] = "",
    request_id: Annotated[str, typer.Option(help="Repeats with this id count once within 24 hours.")] = "",
    key_version: Annotated[int, typer.Option(help="Sign with this version; 0 means the current one.", min=0)] = 0,
) -> None:
    """Sign a message or digest, and print the signature.

    \b
    Examples:
      popsigner sign production/sequencer "hello"
      popsigner sign production/sequencer --file sign_doc.bin --output base64
      popsigner sign production/bridge --hex 0x9c22…ff20 --prehashed --format recoverable
      printf hello | popsigner sign production/sequencer --json
    """
    from .output import print_json

    payload = read_input(data, file, as_hex=as_hex, as_base64=as_base64, as_text=as_text, as_json=session.as_json)
    signed = session.client.sign(
        key,
        payload,
        prehashed=prehashed,
        hash=hash.value_of(),
        format=format.value_of(),
        sign_mode=sign_mode,
        request_id=request_id,
        key_version=key_version,
    )
    printed = signed.signature.hex() if output is Encoding.HEX else base64.b64encode(signed.signature).decode("ascii")
    if not session.as_json:
        typer.echo(printed)
        return
    print_json(
        {
            "key_id": key,
            "signature": printed,
            "encoding": output.value,
            "format": format.value,
            "public_key": signed.public_key,
            "key_version": signed.key_version,
            "recovery_id": signed.recovery_id,
            "request_id": signed.request_id,
        }
    )


@connected
def verify(
    session: Session,
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY",
            help="The key's id, namespace/name, or a public key in hexadecimal (33 or 65 bytes).",
            show_default=False,
        ),
    ],
    data: Data = None,
    signature: Annotated[str, typer.Option(help="The signature, in hexadecimal or base64.", show_default=False)] = "",
    file: File = None,
    as_hex: AsHex = False,
    as_base64: AsBase64 = False,
    as_text: AsText = False,
    prehashed: Prehashed = False,
    hash: HashOption = Hash.SHA256,
    format: FormatOption = Format.COMPACT,
    key_version: Annotated[int, typer.Option(help="Check against this version; 0 means the current.", min=0)] = 0,
) -> None:
    """Check a signature.

    Prints valid and ends with 0, or invalid and ends with 8.

    \b
    Examples:
      popsigner verify production/sequencer "hello" --signature 3f…c1
      popsigner verify 02a1…9e --file sign_doc.bin --signature 3f…c1
    """
    from .output import print_json

    given = _from_hex(signature) or _from_base64(signature)
    if not given:
        fail("--signature takes hexadecimal or base64", code=ExitCode.USAGE, as_json=session.as_json)
    valid = session.client.verify(
        bytes.fromhex(key) if _PUBLIC_KEY.fullmatch(key) else key,
        read_input(data, file, as_hex=as_hex, as_base64=as_base64, as_text=as_text, as_json=session.as_json),
        given,
        prehashed=prehashed,
        hash=hash.value_of(),
        format=format.value_of(),
        key_version=key_version,
    )
    if session.as_json:
        print_json({"valid": valid})
    else:
        typer.echo("valid" if valid else "invalid")
    if not valid:
        raise typer.Exit(ExitCode.INVALID_SIGNATURE)
