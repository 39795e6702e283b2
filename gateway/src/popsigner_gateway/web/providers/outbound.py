"""Requests that leave the POP, to whatever address an organization has named as its identity provider.

An owner of one organization chooses the address, so these requests must not become a tool against what stands behind
the operator's firewall: the address is resolved here, checked, and then connected to (not resolved again, which the
owner of the name could answer otherwise). They follow no redirect, use no proxy, wait for no slow peer, and read no
long answer.
"""

import asyncio
import json
import socket
import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any
from urllib.parse import urlsplit

import httpx2

from popsigner_gateway.web.faults import provider_failed, provider_silent
from popsigner_gateway.web.settings import is_loopback

LARGEST = 1 << 20
"""Bytes of an answer that are read."""
TIMEOUT = 10.0
"""Seconds for a whole exchange."""
LOOKS = 64
"""Names that are looked up at once, a thread each."""
_STRANGERS = 48
"""Of those, names of which nothing good is known."""
_KNOWN = 256
"""Names that are remembered to have been found promptly."""
PROMPT = 2.0
"""Seconds."""
_NAT64 = IPv6Network("64:ff9b::/96")
# What Python takes for public and is not: the NAT64 of one network (RFC 8215), which may lead to every IPv4 address of
# it, the site-local addresses of before (RFC 3879), and IPv4-compatible ones (RFC 4291 2.5.5.1).
_LOCAL = (IPv6Network("64:ff9b:1::/48"), IPv6Network("fec0::/10"), IPv6Network("::/96"))
_NO_KEEPING = httpx2.Limits(max_connections=4, max_keepalive_connections=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Which addresses may be spoken to.

    private: also those of private networks and of this machine (POPSIGNER_GATEWAY_PRIVATE_ISSUERS). loopback: also
    this machine, because the POP's own public URL is this machine: then whoever may name a provider sits in front of
    it anyway, and a POP on a laptop can be tried with a provider on the same laptop.
    """

    private: bool = False
    loopback: bool = False

    def allows(self, address: IPv4Address | IPv6Address) -> bool:
        inner = _inner(address)
        if self.private or (self.loopback and inner.is_loopback):
            return not (inner.is_multicast or inner.is_unspecified)
        # Link-local is where clouds keep the credentials of their machines; is_global excludes it with the rest.
        return inner.is_global and not inner.is_multicast and not any(inner in network for network in _LOCAL)


def _inner(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 address stands for, where it does."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1] or address


class Names:
    """Looks names up, each once at a time.

    A look holds a thread until the system's resolver gives up, some 10 s, whether or not anybody still waits for it. So
    whoever names an issuer whose name server never answers, and begins log-ins there, must not get all the threads: all
    who ask for one name wait for one look, and names that were found promptly the last time have some for themselves.
    """

    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Task[list[str]]] = {}
        self._prompt: OrderedDict[str, None] = OrderedDict()

    async def addresses(self, host: str) -> list[str]:
        """The host's addresses, each once. Raises UnicodeError and OSError, which also says that too many looks are
        under way."""
        looking = self._under_way.get(host)
        if looking is None:
            if len(self._under_way) >= (LOOKS if host in self._prompt else _STRANGERS):
                raise OSError("too many names are being looked up")
            looking = self._under_way[host] = asyncio.create_task(self._look(host))
            looking.add_done_callback(lambda done: self._ended(host, done))
        return await asyncio.shield(looking)

    async def _look(self, host: str) -> list[str]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._prompt.pop(host, None)
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        if loop.time() - began < PROMPT:
            self._prompt[host] = None
            if len(self._prompt) > _KNOWN:
                self._prompt.popitem(last=False)
        return list(dict.fromkeys(str(place[4][0]) for place in found))

    def _ended(self, host: str, done: "asyncio.Task[list[str]]") -> None:
        del self._under_way[host]
        if not done.cancelled():
            # Read it, so that a failure whose callers have all gone is not reported as lost.
            done.exception()


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        seen = 0
        async for part in self._inner:
            seen += len(part)
            if seen > LARGEST:
                raise provider_failed("The identity provider's answer is too long.")
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Checked(httpx2.AsyncBaseTransport):
    """Resolves, checks, and connects to what was checked; TLS is for the name all the same."""

    def __init__(self, reach: Reach, trust: ssl.SSLContext, names: Names) -> None:
        self._reach = reach
        self._names = names
        # Without kept connections none that was made for one name is ever used for another at the same address.
        self._inner = httpx2.AsyncHTTPTransport(verify=trust, trust_env=False, limits=_NO_KEEPING)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        host, secure = request.url.host, request.url.scheme == "https"
        if not secure and not (request.url.scheme == "http" and is_loopback(host)):
            raise provider_silent("The identity provider's address is not https.")
        addresses = await self._resolved(host)
        request.extensions = {**request.extensions, "sni_hostname": host}
        # Decompression could make a short answer a long one.
        request.headers["accept-encoding"] = "identity"
        failure: Exception | None = None
        for address in addresses:
            request.url = request.url.copy_with(host=address)
            try:
                response = await self._inner.handle_async_request(request)
            except httpx2.ConnectError as error:
                failure = error
                continue
            if response.headers.get("content-encoding", "identity") != "identity":
                await response.aclose()
                raise provider_failed("The identity provider's answer is compressed, which was not asked for.")
            assert isinstance(response.stream, httpx2.AsyncByteStream)  # noqa: S101 - what an asynchronous transport gives
            response.stream = _Bounded(response.stream)
            return response
        raise failure or httpx2.ConnectError("no address")

    async def _resolved(self, host: str) -> list[str]:
        try:
            addresses = await self._names.addresses(host)
        except (OSError, UnicodeError):
            raise provider_silent("The identity provider's address cannot be resolved.") from None
        # One that is not allowed spoils all: a name that has both kinds is a trick, or a mistake to be told of.
        if not all(self._reach.allows(ip_address(address.partition("%")[0])) for address in addresses):
            raise provider_silent(
                "The identity provider has a private address; POPSIGNER_GATEWAY_PRIVATE_ISSUERS=allow admits those."
            )
        return addresses

    async def aclose(self) -> None:
        await self._inner.aclose()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbound:
    """Makes the requests. Every method raises Fault."""

    reach: Reach
    trust: ssl.SSLContext = field(default_factory=httpx2.create_ssl_context)
    names: Names = field(default_factory=Names)

    def transport(self) -> httpx2.AsyncBaseTransport:
        """For one exchange."""
        return _Checked(self.reach, self.trust, self.names)

    async def json(self, url: str, headers: Mapping[str, str] | None = None) -> Any:
        """GET. Returns what the JSON of a 200 says."""
        try:
            async with (
                asyncio.timeout(TIMEOUT),
                httpx2.AsyncClient(
                    transport=self.transport(), trust_env=False, timeout=TIMEOUT, headers=dict(headers or {})
                ) as client,
            ):
                response = await client.get(url)
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError):
            raise provider_silent("The identity provider does not answer.") from None
        if response.status_code >= 500 or response.status_code == 429:
            raise provider_silent("The identity provider cannot answer now.")
        if response.status_code != 200:
            raise provider_failed("The identity provider refused a request of this POP.")
        try:
            return json.loads(response.content)
        except ValueError:
            raise provider_failed("The identity provider's answer is no JSON.") from None


def web_address(text: object, what: str) -> str:
    """`text` if it is an https address (http on loopback), else a Fault that names `what`."""
    try:
        parts = urlsplit(text) if isinstance(text, str) else None
        host = parts.hostname if parts else None
    except ValueError:
        parts, host = None, None
    if not parts or not host or "@" in parts.netloc or not str(text).isascii() or not str(text).isprintable():
        raise provider_failed(f"The identity provider's {what} is no address.")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise provider_failed(f"The identity provider's {what} is not https.")
    return str(text)
