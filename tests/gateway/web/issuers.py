"""Identity providers of our own, for what no honest one does, and for GitHub's shape."""

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

Claims = dict[str, Any]


@dataclass(slots=True)
class _Asked:
    """What a code was asked for with, and for whom."""

    subject: str
    query: dict[str, str]
    used: bool = False


def challenge_of(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def _allowed(asked: _Asked | None, form: dict[str, str]) -> bool:
    """A code is taken once, with its own verifier, client and redirect URI (RFC 6749 4.1.3, RFC 7636 4.6)."""
    if asked is None or asked.used or asked.query["code_challenge_method"] != "S256":
        return False
    asked.used = True
    same = all(form.get(name) == asked.query[name] for name in ("client_id", "redirect_uri"))
    return same and challenge_of(form.get("code_verifier", "")) == asked.query["code_challenge"]


@dataclass(slots=True)
class Issuer:
    """An OpenID Connect issuer that is honest until a test changes what it says. url: set when it listens."""

    url: str = ""
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "one"}, private=True))
    published: list[dict[str, Any]] = field(default_factory=list)
    people: dict[str, Claims] = field(default_factory=dict)
    document: dict[str, Any] = field(default_factory=dict)
    """Replaces members of the discovery document."""
    response: dict[str, str] = field(default_factory=dict)
    """Added to the authorization response."""
    change: Callable[[Claims], Claims] = lambda claims: claims
    mint: "Callable[[Issuer, Claims], str] | None" = None
    claims_by_userinfo: bool = False
    userinfo_subject: str | None = None
    asked: dict[str, _Asked] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)

    def honest(self) -> None:
        """Forget every trick."""
        self.document, self.response, self.change, self.mint = {}, {}, lambda claims: claims, None
        self.claims_by_userinfo, self.userinfo_subject = False, None

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._discovery),
                Route("/authorize", self._authorize, methods=["POST"]),
                Route("/token", self._token, methods=["POST"]),
                Route("/userinfo", self._userinfo),
                Route("/jwks", self._jwks),
            ]
        )

    async def _discovery(self, request: Request) -> Response:
        self.fetched.append("discovery")
        document = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "userinfo_endpoint": f"{self.url}/userinfo",
            "jwks_uri": f"{self.url}/jwks",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
        }
        return JSONResponse(document | self.document)

    async def _jwks(self, request: Request) -> Response:
        self.fetched.append("jwks")
        return JSONResponse({"keys": self.published or [self.key.as_dict(private=False)]})

    async def _authorize(self, request: Request) -> Response:
        query, form = dict(request.query_params), await request.body()
        code = secrets.token_urlsafe(16)
        self.asked[code] = _Asked(form.decode().removeprefix("sub="), query)
        answer = {"code": code, "state": query["state"]} | self.response
        return RedirectResponse(f"{query['redirect_uri']}?{urlencode(answer)}", status_code=303)

    async def _token(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode()))
        asked = self.asked.get(form.get("code", ""))
        if not _allowed(asked, form) or form.get("client_secret") != "s3cret":
            return JSONResponse({"error": "invalid_grant"}, status_code=400)
        assert asked is not None
        now = int(time.time())
        claims = {"iss": self.url, "aud": "popsigner", "sub": asked.subject, "iat": now, "exp": now + 300}
        claims |= {"nonce": asked.query["nonce"]} | ({} if self.claims_by_userinfo else self.people[asked.subject])
        claims = self.change(claims)
        token = self.mint(self, claims) if self.mint else jwt.encode({"alg": "RS256", "kid": "one"}, claims, self.key)
        return JSONResponse({"access_token": f"at-{asked.subject}", "token_type": "Bearer", "id_token": token})

    async def _userinfo(self, request: Request) -> Response:
        subject = request.headers["authorization"].removeprefix("Bearer at-")
        return JSONResponse({"sub": self.userinfo_subject or subject} | self.people[subject])


def unsigned(issuer: Issuer, claims: Claims) -> str:
    """`alg: none` (RFC 7519 6.1)."""
    return f"{_part({'alg': 'none', 'kid': 'one'})}.{_part(claims)}."


def signed_with_the_public_key(issuer: Issuer, claims: Claims) -> str:
    """HS256 with the public key's PEM as the secret (RFC 8725 2.1)."""
    message = f"{_part({'alg': 'HS256', 'kid': 'one'})}.{_part(claims)}"
    signature = hmac.new(issuer.key.as_pem(private=False), message.encode(), "sha256").digest()
    return f"{message}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def signed_by_a_stranger(issuer: Issuer, claims: Claims) -> str:
    """A key that the issuer does not publish, under the kid of one that it does."""
    return jwt.encode({"alg": "RS256", "kid": "one"}, claims, RSAKey.generate_key(2048, private=True))


def signed_with_its_own_key(issuer: Issuer, claims: Claims) -> str:
    """A token that brings the key to verify it with (RFC 7515 4.1.3)."""
    key = RSAKey.generate_key(2048, private=True)
    return jwt.encode({"alg": "RS256", "jwk": key.as_dict(private=False)}, claims, key)


def _part(content: Claims) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


@dataclass(slots=True)
class GitHubSite:
    """A site with GitHub's shape: an Enterprise Server, whose API is below its own address (/api/v3).

    Held to docs.github.com: "Authorizing OAuth apps" (parameters, the JSON answer only for `Accept: application/json`,
    errors with status 200), "Get the authenticated user", "List email addresses for the authenticated user".
    """

    url: str = ""
    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By log-in name; `emails` beside the documented fields of /user."""
    asked: dict[str, _Asked] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    response: dict[str, str] = field(default_factory=dict)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/login/oauth/authorize", self._authorize, methods=["POST"]),
                Route("/login/oauth/access_token", self._token, methods=["POST"]),
                Route("/api/v3/user", self._user),
                Route("/api/v3/user/emails", self._emails),
            ]
        )

    async def _authorize(self, request: Request) -> Response:
        query, form = dict(request.query_params), await request.body()
        assert set(query["scope"].split()) == {"read:user", "user:email"}
        code = secrets.token_hex(10)
        self.asked[code] = _Asked(form.decode().removeprefix("sub="), query)
        answer = {"code": code, "state": query["state"]} | self.response
        return RedirectResponse(f"{query['redirect_uri']}?{urlencode(answer)}", status_code=302)

    async def _token(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode()))
        assert request.headers["accept"] == "application/json"
        if form.get("client_secret") != "s3cret":
            return JSONResponse({"error": "incorrect_client_credentials", "error_description": "…", "error_uri": "…"})
        asked = self.asked.get(form.get("code", ""))
        if not _allowed(asked, form):
            return JSONResponse({"error": "bad_verification_code", "error_description": "…", "error_uri": "…"})
        assert asked is not None
        token = "gho_" + secrets.token_hex(18)
        self.tokens[token] = asked.subject
        return JSONResponse({"access_token": token, "scope": "read:user,user:email", "token_type": "bearer"})

    def _who(self, request: Request) -> dict[str, Any] | None:
        assert request.headers["accept"] == "application/vnd.github+json"
        assert request.headers["user-agent"]
        login = self.tokens.get(request.headers["authorization"].removeprefix("Bearer "))
        return None if login is None else {"login": login, "type": "User", "site_admin": False} | self.users[login]

    async def _user(self, request: Request) -> Response:
        who = self._who(request)
        if who is None:
            return JSONResponse({"message": "Bad credentials"}, status_code=401)
        return JSONResponse({name: value for name, value in who.items() if name != "emails"})

    async def _emails(self, request: Request) -> Response:
        who = self._who(request)
        return JSONResponse(who["emails"] if who else {"message": "Bad credentials"}, status_code=200 if who else 401)
