"""The people's side of a scripted POP: its OAuth endpoints over HTTP, and one public port for these and for gRPC.

Refresh tokens are traded once, and a second trade of the same one ends the session, as the POP has it. A test says how
a device log-in goes on, takes the place of an endpoint's answer, or makes every access token of now be over.
"""

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

Form = dict[str, str]
Answer = tuple[int, dict[str, Any]]
PENDING: Answer = (400, {"error": "authorization_pending"})
SLOW_DOWN: Answer = (400, {"error": "slow_down"})
DENIED: Answer = (400, {"error": "access_denied", "error_description": "no"})
EXPIRED: Answer = (400, {"error": "expired_token"})
ENDED: Answer = (400, {"error": "invalid_grant", "error_description": "the session has ended"})


@dataclass
class ScriptedLogin:
    """What the endpoints know, and what they were asked. `lifetime` is that of new access tokens, in seconds."""

    endpoint: str = ""
    lifetime: float = 600
    polls: list[Answer] = field(default_factory=list)
    posts: list[tuple[str, Form]] = field(default_factory=list)
    instead: dict[str, Callable[[Form], Answer | None]] = field(default_factory=dict)
    valid: set[str] = field(default_factory=set)
    refresh: str = ""
    traded: set[str] = field(default_factory=set)
    trades: int = 0
    reused: bool = False
    before_trade: Callable[[], object] = lambda: None
    _issued: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def issue(self) -> dict[str, Any]:
        """New tokens of the one session."""
        self._issued += 1
        access = f"access-{self._issued}"
        self.valid.add(access)
        self.refresh = f"psr_{self._issued:064x}"
        return {
            "access_token": access,
            "token_type": "Bearer",
            "expires_in": self.lifetime,
            "refresh_token": self.refresh,
        }

    def expire(self) -> None:
        """Every access token of now is over."""
        self.valid.clear()

    def answer(self, path: str, form: Form) -> Answer | None:
        """What is answered; None to hang up."""
        self.posts.append((path, form))
        if path in self.instead:
            return self.instead[path](form)
        match path, form.get("grant_type"):
            case "/oauth/device_authorization", _:
                return 200, {
                    "device_code": "device-code-secret",
                    "user_code": "BCDF-GHJK",
                    "verification_uri": f"http://{self.endpoint}/device",
                    "verification_uri_complete": f"http://{self.endpoint}/device?user_code=BCDF-GHJK",
                    "expires_in": 900,
                    "interval": 0.01,
                }
            case "/oauth/token", "urn:ietf:params:oauth:grant-type:device_code":
                return self.polls.pop(0) if self.polls else (200, self.issue())
            case "/oauth/token", "refresh_token":
                self.before_trade()
                return self._trade(form["refresh_token"])
            case "/oauth/revoke", _:
                return 200, {}
        return 404, {}

    def _trade(self, token: str) -> Answer:
        with self._lock:
            if token != self.refresh or self.reused:
                self.reused = self.reused or token in self.traded
                self.valid.clear()
                return ENDED
            self.traded.add(token)
            self.trades += 1
            return 200, self.issue()


def serve(login: ScriptedLogin) -> ThreadingHTTPServer:
    """The endpoints on a free port of this machine; runs until `shutdown`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            answer = login.answer(self.path, dict(parse_qsl(self.rfile.read(length).decode())))
            if answer is None:
                return
            status, content = answer
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            for name, value in content.get("headers", {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server


class PublicPort:
    """One port for gRPC and HTTP, as the gateway has it: HTTP/2 begins with its preface, everything else is HTTP/1."""

    def __init__(self, *, grpc: str, http: str) -> None:
        self._places = {True: grpc, False: http}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                caller, _address = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._join, args=(caller,), daemon=True).start()

    def _join(self, caller: socket.socket) -> None:
        with caller, suppress(OSError):
            host, port = self._places[caller.recv(3, socket.MSG_PEEK) == b"PRI"].split(":")
            with socket.create_connection((host, int(port))) as served:
                back = threading.Thread(target=_carry, args=(served, caller), daemon=True)
                back.start()
                _carry(caller, served)
                back.join()


def _carry(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(65536):
            target.sendall(content)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
