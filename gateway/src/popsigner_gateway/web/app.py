"""The composition root of the web application: every part named once, top to bottom."""

import asyncio
import base64
import hashlib
import os
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import structlog
import uvicorn
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.routing import Router
from starlette.types import ASGIApp

from popsigner_gateway.web.cookies import FormSeal, Jar
from popsigner_gateway.web.edge import Edge
from popsigner_gateway.web.gateway import Gateway
from popsigner_gateway.web.pages.device import Device
from popsigner_gateway.web.pages.home import Home
from popsigner_gateway.web.pages.invitation import Invitation
from popsigner_gateway.web.pages.login import Login
from popsigner_gateway.web.pages.oauth import OAuth
from popsigner_gateway.web.pages.well_known import WellKnown
from popsigner_gateway.web.providers.github import GitHub
from popsigner_gateway.web.providers.oidc import OpenIdConnect
from popsigner_gateway.web.providers.outbound import LOOKS, Outbound, Reach
from popsigner_gateway.web.server import Server
from popsigner_gateway.web.sessions import Sessions
from popsigner_gateway.web.settings import Settings

_TEMPLATES = Path(__file__).with_name("templates")
_CHANNEL = [
    # A server that comes back is found within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A proxy in the environment is not for the way to our own server.
    ("grpc.enable_http_proxy", 0),
]
_log = structlog.get_logger(__name__)


def application(
    settings: Settings, secret: str, channel: grpc.aio.Channel, clock: Callable[[], float] = time.time
) -> ASGIApp:
    """The application. secret: what the settings' file holds. clock: seconds since the epoch."""
    outbound = Outbound(
        reach=Reach(private=settings.private_issuers == "allow", loopback=settings.is_loopback),
    )
    jar, server = Jar.of(secret), Server(channel, secret)
    connect = OpenIdConnect(outbound, clock=clock)
    style = (_TEMPLATES / "style.css").read_text()
    templates = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined)
    templates.globals["style"] = Markup(style)  # noqa: S704 - a file of this package
    gateway = Gateway(
        public_url=settings.public_url,
        server=server,
        speakers={"GITHUB": GitHub(outbound), "GOOGLE": connect, "OIDC": connect},
        jar=jar,
        forms=FormSeal.of(secret),
        sessions=Sessions(jar, server, clock),
        templates=templates,
        clock=clock,
    )
    doors = (Home, Login, Invitation, Device, OAuth, WellKnown)
    # A path with a slash too many is an unknown one, and no redirect built from a Host header.
    router = Router([route for door in doors for route in door(gateway).routes()], redirect_slashes=False)
    return Edge(router, gateway=gateway, style_hash=_sha256(style))


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


class _Server(uvicorn.Server):
    """uvicorn raises the signal that stopped it once more; a drained process ends with 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Raises SettingsError, and OSError for an address that is taken."""
    secret = settings.secret()
    listener = _listener(settings.listen)
    async with grpc.aio.insecure_channel(settings.server, options=_CHANNEL) as channel:
        config = uvicorn.Config(
            application(settings, secret, channel),
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=32_768,
            # Longer than Envoy keeps an idle connection: who closes first must not be us, with a request on its way.
            timeout_keep_alive=120,
            timeout_graceful_shutdown=round(settings.drain_seconds),
        )
        server = _Server(config)

        def stop() -> None:
            server.should_exit = True

        loop = asyncio.get_running_loop()
        # For the names of identity providers; outbound.Names shares them out.
        loop.set_default_executor(ThreadPoolExecutor(LOOKS, thread_name_prefix="resolver"))
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, stop)
        _log.info("serving", listen=settings.listen)
        await server.serve(sockets=[listener])
        _log.info("stopped")


def _listener(listen: str) -> socket.socket:
    if not listen.startswith("unix:"):
        host, _, port = listen.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, int(port)), family=family, backlog=512)
    place = Path(listen.removeprefix("unix://"))
    # What a killed process left; a file of another kind is somebody's.
    if place.exists() and stat.S_ISSOCK(place.stat().st_mode):
        place.unlink()
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Never open to everybody, not even between bind and chmod: who reaches the socket says where callers are.
    before = os.umask(0o117)
    try:
        made.bind(str(place))
    finally:
        os.umask(before)
    made.listen(512)
    return made
