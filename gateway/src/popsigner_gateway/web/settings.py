"""The settings of the web application's process: read once from the environment (`POPSIGNER_GATEWAY_…`).

Unknown names are refused, and secrets are paths of files. docs/login.md has the table.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

PREFIX = "POPSIGNER_GATEWAY_"
LEVELS = ("debug", "info", "warning", "error")


class SettingsError(Exception):
    """A mistake in the settings, in one sentence that never repeats a value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an operator may choose."""

    listen: str
    """`unix:///run/popsigner/gateway.sock` or `127.0.0.1:9191`. Only Envoy may reach it: it tells the caller's
    address."""
    server: str
    """Where the server answers gRPC: `unix:///…` or `host:port`."""
    secret_file: Path = field(repr=False)
    """64 hexadecimal digits, the server's POPSIGNER_GATEWAY_SECRET_FILE."""
    public_url: str
    """Scheme and authority that people's browsers use, e.g. `https://pop.example.com`; http on loopback only."""
    private_issuers: str = "refuse"
    """`allow`: identity providers may have private addresses."""
    drain_seconds: float = 10.0
    """How long requests that are under way may take after SIGTERM."""
    log_level: str = "info"
    log_format: str = "json"

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Raises SettingsError. environment: the process's own by default; an empty value counts as absent."""
        given = os.environ if environment is None else environment
        ours = {
            name.removeprefix(PREFIX).lower(): text for name, text in given.items() if name.startswith(PREFIX) and text
        }
        fields = {each.name: each for each in dataclasses.fields(cls)}
        for name in sorted(ours):
            if name not in fields:
                raise SettingsError(
                    f"{PREFIX}{name.upper()} is no setting of the gateway; remove it or correct its name."
                )
        for name, each in fields.items():
            if name not in ours and each.default is dataclasses.MISSING:
                raise SettingsError(f"{PREFIX}{name.upper()} is required.")
        return cls(
            listen=_checked("listen", ours["listen"], _is_listen, "write unix:///path, or an IP address and a port"),
            server=_checked("server", ours["server"], _is_address, "write unix:///path or host:port"),
            secret_file=Path(ours["secret_file"]),
            public_url=_checked(
                "public_url",
                ours["public_url"].rstrip("/"),
                _is_public_url,
                "write https://host, without a path; http only for a loopback address",
            ),
            private_issuers=_chosen("private_issuers", ours, ("refuse", "allow"), "refuse"),
            drain_seconds=_seconds("drain_seconds", ours.get("drain_seconds", "10")),
            log_level=_chosen("log_level", ours, LEVELS, "info"),
            log_format=_chosen("log_format", ours, ("json", "console"), "json"),
        )

    def secret(self) -> str:
        """The gateway's credential. Raises SettingsError where the file does not hold one."""
        try:
            text = self.secret_file.read_text().strip()
        except (OSError, UnicodeDecodeError):
            raise SettingsError(f"{PREFIX}SECRET_FILE: the file does not exist or cannot be read.") from None
        if not re.fullmatch("[0-9a-f]{64}", text):
            raise SettingsError(f"{PREFIX}SECRET_FILE: the file does not hold 64 hexadecimal digits.")
        return text

    @property
    def is_loopback(self) -> bool:
        """Whether the public URL is this machine alone."""
        return is_loopback(urlsplit(self.public_url).hostname or "")


def is_loopback(host: str) -> bool:
    """Whether the name or address means this machine by itself, whatever a resolver says."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _checked(name: str, text: str, fits: Callable[[str], bool], advice: str) -> str:
    if not fits(text):
        raise SettingsError(f"{PREFIX}{name.upper()}: {advice}.")
    return text


def _chosen(name: str, given: Mapping[str, str], known: tuple[str, ...], default: str) -> str:
    text = given.get(name, default)
    if text not in known:
        raise SettingsError(f"{PREFIX}{name.upper()}: write {' or '.join(known)}.")
    return text


def _seconds(name: str, text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]+)?", text):
        raise SettingsError(f"{PREFIX}{name.upper()}: write a number of seconds.")
    return float(text)


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return text.startswith("unix:///") or bool(host and port.isascii() and port.isdigit() and int(port) < 65536)


def _is_listen(text: str) -> bool:
    if text.startswith("unix:///"):
        return True
    try:
        ip_address(text.rpartition(":")[0].removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return _is_address(text)


def _is_public_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    bare = not (parts.path or parts.query or parts.fragment or parts.username or "@" in parts.netloc)
    plain = text.isascii() and text.isprintable() and " " not in text and text == text.lower()
    return bool(host and bare and plain and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))))
