"""A real OpenID Connect provider in a process of its own: oidc-provider-mock, on a free loopback port.

with OidcProvider.started({"alice": {"email": "alice@example.com", "email_verified": True, "name": "Alice"}}) as
provider:
    provider.issuer, provider.client_id, provider.client_secret

It takes any client and any secret, names no `kid`, and by itself it does not look at PKCE: so `_PkceChecked` stands in
front of it, remembers the challenge that each code was asked for with, and refuses a code that comes without the
verifier of that challenge (RFC 7636 4.6), or a second time (RFC 6749 4.1.2).
"""

import base64
import hashlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import requests

ROOT = Path(__file__).resolve().parents[2]
Environ = dict[str, Any]
StartResponse = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcProvider:
    """A running provider."""

    issuer: str
    client_id: str = "popsigner"
    client_secret: str = "the-provider's-secret"

    @classmethod
    @contextmanager
    def started(cls, people: Mapping[str, Mapping[str, Any]]) -> Iterator[Self]:
        """people: the claims of each subject."""
        command = [sys.executable, "-m", "tests.support.oidc_provider", json.dumps(people)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, text=True)
        try:
            assert process.stdout is not None
            issuer = process.stdout.readline().strip()
            assert issuer, "the provider did not start"
            _until_it_answers(issuer)
            yield cls(issuer=issuer)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _until_it_answers(issuer: str) -> None:
    for _ in range(400):
        try:
            if requests.get(f"{issuer}/.well-known/openid-configuration", timeout=5).status_code == 200:
                return
        except requests.ConnectionError:
            time.sleep(0.05)
    raise AssertionError("the provider does not answer")


class _PkceChecked:
    """WSGI: what oidc-provider-mock leaves out."""

    def __init__(self, inner: Callable[[Environ, StartResponse], Iterable[bytes]]) -> None:
        self._inner = inner
        self._challenges: dict[str, str] = {}

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/oauth2/authorize":
            return self._inner(environ, self._remembering(environ, start_response))
        if path == "/oauth2/token":
            length = int(environ.get("CONTENT_LENGTH") or 0)
            body = environ["wsgi.input"].read(length)
            environ["wsgi.input"] = io.BytesIO(body)
            form = parse_qs(body.decode())
            if not self._fits(form.get("code", [""])[0], form.get("code_verifier", [""])[0]):
                start_response("400 Bad Request", [("content-type", "application/json")])
                return [b'{"error": "invalid_grant", "error_description": "PKCE verification failed"}']
        return self._inner(environ, start_response)

    def _remembering(self, environ: Environ, start_response: StartResponse) -> StartResponse:
        asked = parse_qs(environ.get("QUERY_STRING", ""))

        def started(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            location = {name.lower(): value for name, value in headers}.get("location", "")
            for code in parse_qs(urlsplit(location).query).get("code", []):
                assert asked["code_challenge_method"] == ["S256"], "PKCE with S256 is what is tested here"
                self._challenges[code] = asked["code_challenge"][0]
            return start_response(status, headers, *more)

        return started

    def _fits(self, code: str, verifier: str) -> bool:
        digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        return self._challenges.pop(code, None) == digest


def main() -> None:
    # The mock's own library refuses plain http elsewhere than here.
    os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"
    from oidc_provider_mock import app  # type: ignore[import-untyped] # it publishes no types
    from oidc_provider_mock._storage import User  # type: ignore[import-untyped] # as above
    from werkzeug.serving import make_server

    people = json.loads(sys.argv[1])
    made = app(user_claims=[User(sub=subject, claims=claims) for subject, claims in people.items()])
    made.debug = False
    server = make_server("127.0.0.1", 0, _PkceChecked(made.wsgi_app), threaded=True)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
