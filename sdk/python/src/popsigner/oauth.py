"""The POP's OAuth endpoints, as a program without a browser uses them: device authorization (RFC 8628), tokens
(RFC 6749), revocation (RFC 7009).

They are plain HTTP beside gRPC on the POP's public port, and rarely needed: the standard library carries them.
"""

import http.client
import json
import ssl
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from .endpoint import Connection
from .errors import (
    ConfigurationError,
    InternalError,
    NotAuthenticated,
    NotPermitted,
    PopsignerError,
    RateLimited,
    SessionEnded,
    Unavailable,
    Unimplemented,
)

CLIENT_ID = "popsigner-cli"
_DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
_TIMEOUT = 10.0
_LARGEST = 64 * 1024
_TOKEN_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/=")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """What a session goes on with; `expires_in` is the access token's life in seconds."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_in: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device log-in that waits for its person, who types `user_code` at `verification_uri`; times in seconds."""

    device_code: str = field(repr=False)
    user_code: str
    verification_uri: str
    verification_uri_complete: str
    expires_in: float
    interval: float


class PendingError(Exception):
    """Nobody has decided about the device yet; `slower` if it asks too often (RFC 8628 3.5)."""

    def __init__(self, *, slower: bool) -> None:
        super().__init__("authorization_pending")
        self.slower = slower


class _AsItIs(urllib.request.HTTPErrorProcessor):
    """Refusals are answers here. And no redirect is followed: tokens go where they were addressed to."""

    def http_response(self, request: urllib.request.Request, response: Any) -> Any:
        return response

    https_response = http_response


def _parsed(content: bytes) -> dict[str, Any]:
    # What a proxy or Envoy says itself is not the JSON of RFC 6749; its status says enough.
    try:
        found = json.loads(content or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class OAuth:
    """Speaks with one POP. Every method raises PopsignerError, and takes at most some seconds."""

    def __init__(self, connection: Connection) -> None:
        self._base = connection.endpoint.http
        self._shown = connection.endpoint.shown
        if not self._base:
            raise ConfigurationError(
                f"{self._shown} is a socket of the server, which people do not log in at; name the POP's public "
                f"address, as in http://127.0.0.1:8080"
            )
        handlers: list[urllib.request.BaseHandler] = [_AsItIs()]
        if connection.endpoint.local:
            # A proxy from the environment must not see what is meant for this machine.
            handlers.append(urllib.request.ProxyHandler({}))
        if connection.endpoint.secure:
            try:
                context = ssl.create_default_context(cafile=connection.ca_file)
            except (OSError, ssl.SSLError) as error:
                raise ConfigurationError(
                    f"the certificates in {connection.ca_file} cannot be read: {error.strerror or error.args[0]}"
                ) from None
            handlers.append(urllib.request.HTTPSHandler(context=context))
        self._opener = urllib.request.build_opener(*handlers)

    def start_device(self) -> Device:
        """Begin a device log-in (RFC 8628 3.1)."""
        status, answer = self._post("/oauth/device_authorization", client_id=CLIENT_ID)
        if status != http.client.OK:
            raise self._refusal(status, answer)
        return Device(
            device_code=self._text(answer, "device_code"),
            user_code=self._text(answer, "user_code"),
            verification_uri=self._address(answer, "verification_uri"),
            verification_uri_complete=(
                self._address(answer, "verification_uri_complete") if "verification_uri_complete" in answer else ""
            ),
            expires_in=self._number(answer, "expires_in"),
            # RFC 8628 3.2: 5 where the server says nothing.
            interval=self._number(answer, "interval") if "interval" in answer else 5.0,
        )

    def poll(self, device: Device) -> Tokens:
        """Ask once whether the person has decided (RFC 8628 3.4). Raises PendingError, NotPermitted for a refusal,
        NotAuthenticated when the code is over."""
        status, answer = self._post(
            "/oauth/token", grant_type=_DEVICE_CODE, device_code=device.device_code, client_id=CLIENT_ID
        )
        if status == http.client.OK:
            return self._tokens(answer)
        match answer.get("error"):
            case "authorization_pending":
                raise PendingError(slower=False)
            case "slow_down":
                raise PendingError(slower=True)
            case "access_denied":
                raise NotPermitted("the log-in was denied in the browser")
            case "expired_token":
                raise NotAuthenticated("the code is over; begin again with `popsigner login`")
        raise self._refusal(status, answer)

    def renew(self, refresh_token: str) -> Tokens:
        """Trade a refresh token, once, for the next tokens (RFC 6749 6). Raises SessionEnded."""
        status, answer = self._post(
            "/oauth/token", grant_type="refresh_token", refresh_token=refresh_token, client_id=CLIENT_ID
        )
        if status == http.client.OK:
            return self._tokens(answer)
        if answer.get("error") == "invalid_grant":
            raise SessionEnded("your session has ended; log in again with `popsigner login`")
        raise self._refusal(status, answer)

    def revoke(self, refresh_token: str) -> None:
        """End a session (RFC 7009 2.1). A token that is worth nothing any more is no failure."""
        status, answer = self._post("/oauth/revoke", token=refresh_token, client_id=CLIENT_ID)
        if status != http.client.OK:
            raise self._refusal(status, answer)

    def _post(self, path: str, **form: str) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(  # noqa: S310 - the endpoint is http or https: see popsigner.endpoint
            self._base + path,
            data=urllib.parse.urlencode(form).encode("ascii"),
            headers={"accept": "application/json", "user-agent": f"popsigner-python/{version('popsigner')}"},
        )
        try:
            with self._opener.open(request, timeout=_TIMEOUT) as response:
                status, content = response.status, response.read(_LARGEST)
                retry_after = response.headers.get("retry-after", "")
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            why = getattr(error, "reason", None) or error
            failure: PopsignerError = Unavailable(
                f"the POP at {self._shown} cannot be reached; check that it runs there ({why})"
            )
        else:
            if status != http.client.TOO_MANY_REQUESTS:
                return status, _parsed(content)
            seconds = float(retry_after) if retry_after.isdecimal() else 1.0
            failure = RateLimited("too many requests from this address", retry_after=seconds)
        # Outside of the handler: what was caught there stays out of what is raised here.
        raise failure

    def _refusal(self, status: int, answer: dict[str, Any]) -> PopsignerError:
        said = answer.get("error_description") or answer.get("error")
        words = said if isinstance(said, str) and said.isprintable() else f"HTTP status {status}"
        if status == http.client.NOT_FOUND or answer.get("error") in ("unsupported_grant_type", "invalid_client"):
            return Unimplemented(f"the POP at {self._shown} does not let people log in from programs ({words})")
        if status >= http.client.INTERNAL_SERVER_ERROR or answer.get("error") == "temporarily_unavailable":
            return Unavailable(f"the POP at {self._shown} cannot answer now ({words}); try again")
        return NotAuthenticated(f"the POP refused: {words.rstrip('.')}")

    def _tokens(self, answer: dict[str, Any]) -> Tokens:
        tokens = Tokens(
            access_token=self._text(answer, "access_token"),
            refresh_token=self._text(answer, "refresh_token"),
            expires_in=self._number(answer, "expires_in"),
        )
        if not _TOKEN_CHARACTERS.issuperset(tokens.access_token):
            raise self._incomplete("access_token")
        return tokens

    def _text(self, answer: dict[str, Any], name: str) -> str:
        found = answer.get(name)
        # It may be shown on a terminal, which must not be told anything else by it.
        if not isinstance(found, str) or not found or not found.isprintable():
            raise self._incomplete(name)
        return found

    def _address(self, answer: dict[str, Any], name: str) -> str:
        found = self._text(answer, name)
        if not found.startswith(("https://", "http://")):
            raise self._incomplete(name)
        return found

    def _number(self, answer: dict[str, Any], name: str) -> float:
        found = answer.get(name)
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < 1e9:
            raise self._incomplete(name)
        return float(found)

    def _incomplete(self, name: str) -> PopsignerError:
        return InternalError(f"the answer of the POP at {self._shown} has no usable {name}; is this a POP?")
