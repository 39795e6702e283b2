"""Settings: one frozen tree, read once from the environment (`POPSIGNER_…`). Secrets are paths of files."""

import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "POPSIGNER_"
# The gateway's web application has settings of its own in the same environment.
GATEWAY_PREFIX = "POPSIGNER_GATEWAY_"
# The client reads these from the same environment; they are no mistake here.
CLIENT_NAMES = {"POPSIGNER_API_KEY", "POPSIGNER_API_KEY_FILE", "POPSIGNER_ENDPOINT", "POPSIGNER_ORGANIZATION"}


class SettingsError(Exception):
    """A mistake in the settings, in one sentence that never repeats a value."""


class DatabaseSettings(BaseSettings):
    """What every command needs: where the database is, and what this POP is."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    # A libpq URL, e.g. postgresql://popsigner@/popsigner?host=/run/popsigner; the password comes from a file.
    database_url: str
    database_password_file: Path | None = None
    # Connections of the request path; the release gate keeps `trips` more of its own.
    database_pool: int = 8
    environment: Literal["live", "test"] = "live"
    # Another plan catalogue than the one that comes with the server.
    plans_file: Path | None = None

    @field_validator("*")
    @classmethod
    def _is_readable(cls, value: Any, field: ValidationInfo) -> Any:
        name = field.field_name or ""
        if name.endswith("_file") and value is not None and not os.access(value, os.R_OK):
            raise ValueError("the file does not exist or cannot be read")
        return value

    @classmethod
    def read(cls) -> Self:
        """Read and check the process's environment; raises SettingsError with one sentence."""
        known = {PREFIX + name.upper() for name in Settings.model_fields} | CLIENT_NAMES
        unknown = sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known)
        unknown = [name for name in unknown if not name.upper().startswith(GATEWAY_PREFIX) or name.upper() in known]
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


class OperatorSettings(DatabaseSettings):
    """What the operator's commands need beside it."""

    # 32 bytes as 64 hexadecimal digits: seals the keys of access tokens and the secrets of identity providers.
    sealing_key_file: Path


class Settings(OperatorSettings):
    """What an operator may choose. Addresses are `host:port`; an IPv6 host stands in brackets."""

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
    # What the gateway's web application proves itself with: 64 hexadecimal digits.
    gateway_secret_file: Path
    # Whether anybody whom one of the POP's own identity providers vouches for may found an organization.
    sign_up: Literal["closed", "open"] = "closed"

    # Calls a second of one API key or session; None for no limit but the organization's.
    api_key_rate: int | None = Field(default=None, ge=1)
    # Holds the URL of a Valkey or Redis that all server processes count in; None counts in each process.
    rate_limit_store_file: Path | None = None

    # Seconds that a change of a recovery recipient waits, so that another owner can cancel it.
    recovery_wait: int = Field(default=3 * 86_400, ge=0, le=30 * 86_400)

    drain_seconds: float = 10.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    otlp_endpoint: str | None = None

    # Signatures of one organization that may wait; one more is QUEUE_FULL. A BatchSign needs room for a full batch.
    queue_limit: int = Field(default=8192, ge=256)
    # Signatures of one vault trip and one commit; a whole BatchSign must fit. While a quiet neighbour is there, 256.
    batch_limit: int = Field(default=512, ge=256)
    # Trips under way at once: one at the vault while the other commits.
    trips: int = Field(default=2, ge=1)
