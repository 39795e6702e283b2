"""Walks a browser through a POP's log-in, as a person would: pages, forms, cookies and redirects.

browser = Browser(pop.http)
answer = await log_in(browser, provider_id, "subject")     through a provider of tests.support.oidc_provider
await approve_device(browser, "ABCD-EFGH")
tokens = await device_login(pop.http, browser)             as `popsigner login` does

Nothing is followed by itself: every step returns its answer, so that a test can look at it or change it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2

# Reading the authorities takes longer than a request.
_TRUST = httpx2.create_ssl_context()
DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"


@dataclass(slots=True)
class Browser:
    """One browser with its cookies. base: the POP's public URL. headers: what it sends with every request."""

    base: str
    headers: dict[str, str] = field(default_factory=dict)
    cookies: dict[str, dict[str, str]] = field(default_factory=dict)
    """By origin."""
    set_cookies: list[str] = field(default_factory=list)
    """Every Set-Cookie header so far."""

    async def get(self, place: str, headers: Mapping[str, str] | None = None) -> httpx2.Response:
        """place: a path of the POP, or any address."""
        return await self._send("GET", place, None, dict(headers or {}))

    async def post(
        self, place: str, data: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> httpx2.Response:
        """A form that a page of the same site sends; headers replace what a browser says of that (empty: left out)."""
        origin = origin_of(urljoin(self.base, place))
        said = {"origin": origin, "sec-fetch-site": "same-origin"} | dict(headers or {})
        return await self._send("POST", place, data, {name: value for name, value in said.items() if value})

    async def _send(
        self, method: str, place: str, data: Mapping[str, str] | None, headers: dict[str, str]
    ) -> httpx2.Response:
        url = urljoin(self.base + "/", place)
        jar = self.cookies.setdefault(origin_of(url), {})
        sent = self.headers | headers
        if jar:
            sent["cookie"] = "; ".join(f"{name}={value}" for name, value in jar.items())
        async with httpx2.AsyncClient(timeout=20, trust_env=False, verify=_TRUST) as client:
            # Bytes as they are: what is no ASCII has to arrive too.
            raw = [(name.encode(), value.encode()) for name, value in sent.items()]
            answer = await client.request(method, url, data=data, headers=raw)
        for header in answer.headers.get_list("set-cookie"):
            self.set_cookies.append(header)
            _keep(jar, header)
        return answer

    async def follow(self, answer: httpx2.Response) -> httpx2.Response:
        """Go where a redirect says."""
        assert answer.is_redirect, (answer.status_code, answer.text)
        return await self.get(urljoin(str(answer.url), answer.headers["location"]))

    def cookie(self, name: str) -> str | None:
        return self.cookies.get(origin_of(self.base), {}).get(name)


def _keep(jar: dict[str, str], header: str) -> None:
    first, *attributes = [part.strip() for part in header.split(";")]
    name, _, value = first.partition("=")
    known = {part.partition("=")[0].lower(): part.partition("=")[2] for part in attributes}
    if name.startswith("__Host-") and not ("secure" in known and known.get("path") == "/" and "domain" not in known):
        return  # as browsers do (RFC 6265bis 4.1.3.2)
    if known.get("max-age") == "0":
        jar.pop(name, None)
    else:
        jar[name] = value.strip('"')


def origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def query_of(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query, keep_blank_values=True).items()}


def form_of(page: str, action: str) -> dict[str, str]:
    """The hidden fields of a page's POST form."""
    forms = re.findall(r'<form method="post" action="([^"]*)">(.*?)</form>', page, re.DOTALL)
    (inside,) = [inside for where, inside in forms if where == action]
    fields = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', inside)
    return {name: unescape(value) for name, value in fields}


async def begin(browser: Browser, provider_id: str, return_to: str = "/") -> str:
    """Begin a log-in; returns the provider's address that the browser is sent to."""
    answer = await browser.get(f"/login/{provider_id}?" + str(httpx2.QueryParams({"return_to": return_to})))
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"])


async def at_provider(browser: Browser, address: str, subject: str) -> str:
    """Say at the provider who one is; returns the POP's callback with what the provider says."""
    answer = await browser.post(address, {"sub": subject})
    assert answer.is_redirect, (answer.status_code, answer.text)
    return str(answer.headers["location"])


async def log_in(browser: Browser, provider_id: str, subject: str, return_to: str = "/") -> httpx2.Response:
    """The whole walk; returns the callback's answer: 303 to `return_to`, or an error page."""
    return await browser.get(await at_provider(browser, await begin(browser, provider_id, return_to), subject))


async def log_out(browser: Browser, *, everywhere: bool = False) -> httpx2.Response:
    action = "/logout/everywhere" if everywhere else "/logout"
    return await browser.post(action, form_of((await browser.get("/")).text, action))


async def approve_device(browser: Browser, user_code: str, *, approve: bool = True) -> httpx2.Response:
    """Decide about a program, in a browser that is logged in."""
    page = await browser.get("/device?" + str(httpx2.QueryParams({"user_code": user_code})))
    assert page.status_code == 200, page.text
    decision = {"decision": "approve" if approve else "deny"}
    return await browser.post("/device", form_of(page.text, "/device") | decision)


async def oauth(base: str, path: str, headers: Mapping[str, str] | None = None, **form: str) -> httpx2.Response:
    """A program's POST to one of the OAuth endpoints."""
    data = {"client_id": "popsigner-cli"} | form
    async with httpx2.AsyncClient(timeout=20, trust_env=False, verify=_TRUST) as client:
        return await client.post(base + path, data=data, headers=dict(headers or {}))


async def device_login(base: str, browser: Browser) -> dict[str, Any]:
    """A program's log-in, approved in the browser; returns the token endpoint's answer."""
    started = (await oauth(base, "/oauth/device_authorization")).json()
    decided = await approve_device(browser, started["user_code"])
    assert decided.status_code == 200, decided.text
    answer = await oauth(base, "/oauth/token", grant_type=DEVICE_CODE, device_code=started["device_code"])
    assert answer.status_code == 200, answer.text
    tokens: dict[str, Any] = answer.json()
    return tokens


async def accept_invitation(browser: Browser, token: str) -> httpx2.Response:
    """Accept, in a browser that is logged in."""
    page = await browser.get("/invitation?" + str(httpx2.QueryParams({"token": token})))
    assert page.status_code == 200, page.text
    return await browser.post("/invitation", form_of(page.text, "/invitation"))
