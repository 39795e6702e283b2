"""Settings: one frozen tree, read once from the environment (`POPSIGNER_…`). Secrets are paths of files."""

import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "POPSIGNER_"
# The client reads these from the same environment; they are no mistake here.
CLIENT_NAMES = {"POPSIGNER_API_KEY", "POPSIGNER_API_KEY_FILE", "POPSIGNER_ENDPOINT"}


class SettingsError(Exception):
    """A mistake in the settings, in one sentence that never repeats a value."""


class Settings(BaseSettings):
    """What an operator may choose. Addresses are `host:port`; an IPv6 host stands in brackets."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    # A libpq URL, e.g. postgresql://popsigner@/popsigner?host=/run/popsigner; the password comes from a file.
    database_url: str
    database_password_file: Path | None = None
    # Connections of the request path; the release gate keeps `trips` more of its own.
    database_pool: int = 8

    # unix:///run/popsigner/bao.sock, http://127.0.0.1:8200 or https://…
    bao_addr: str
    bao_ca_file: Path | None = None
    bao_mount: str = "secp256k1"
    bao_role_id: str = "popsigner-server"
    bao_secret_id_file: Path

    listen: str = "127.0.0.1:9090"
    listen_socket: Path | None = None
    # Prometheus metrics over HTTP; "off" serves none.
    metrics_listen: str = "127.0.0.1:9464"
    # Read the caller's address from the gateway's `x-envoy-external-address`. Only where nothing but the gateway can
    # reach `listen`: whoever else can would name any address.
    trust_gateway: bool = False

    environment: Literal["live", "test"] = "live"
    drain_seconds: float = 10.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    otlp_endpoint: str | None = None

    # Signatures of one organization that may wait; one more is QUEUE_FULL.
    queue_limit: int = 8192
    # Signatures of one vault trip and one commit.
    batch_limit: int = 1024
    # Trips under way at once.
    trips: int = 3

    @field_validator("bao_secret_id_file", "database_password_file", "bao_ca_file")
    @classmethod
    def _is_readable(cls, path: Path | None) -> Path | None:
        if path is not None and not os.access(path, os.R_OK):
            raise ValueError("the file does not exist or cannot be read")
        return path

    @classmethod
    def read(cls) -> Self:
        """Read and check the process's environment; raises SettingsError with one sentence."""
        known = {PREFIX + name.upper() for name in cls.model_fields} | CLIENT_NAMES
        unknown = sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known)
        if unknown:
            raise SettingsError(f"{unknown[0]} is no setting of this server; remove it or correct its name.")
        chosen: dict[str, Any] = {}
        try:
            return cls(**chosen)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            name = PREFIX + "_".join(str(part) for part in first["loc"]).upper()
            raise SettingsError(f"{name}: {first['msg']}.") from None

    def secret(self, path: Path) -> str:
        """The content of a secret's file, without its final newline."""
        return path.read_text().rstrip("\r\n")
