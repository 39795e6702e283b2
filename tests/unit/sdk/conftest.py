"""One scripted POP for all tests of the SDK, told anew what to answer by each."""

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from popsigner import AsyncClient, Client, Credential, Retry
from popsigner.keyfiles import CosmosKeyring, Secret
from popsigner.store import SessionFile, StoredSession
from popsigner_server.gen.popsigner.v1 import api_key_pb2, auth_pb2, organization_pb2

from .command import Popsigner
from .key_pop import KeyPop
from .migrating import SECRET, secret
from .scripted_login import PublicPort, ScriptedLogin, serve
from .scripted_pop import API_KEY, Context, ScriptedPop, Unary, refuse

QUICK = Retry(attempts=4, initial=0.005, ceiling=0.02)


@pytest.fixture(scope="package")
def running_pop() -> Iterator[ScriptedPop]:
    pop = ScriptedPop()
    pop.start()
    yield pop
    pop.stop()


@pytest.fixture
def pop(running_pop: ScriptedPop) -> ScriptedPop:
    running_pop.seen.clear()
    running_pop.unary.clear()
    running_pop.stream = None
    running_pop.download = None
    return running_pop


@pytest.fixture
def client(pop: ScriptedPop) -> Iterator[Client]:
    with Client(api_key=API_KEY, endpoint=pop.endpoint, retry=QUICK) as client:
        yield client


@pytest.fixture
async def async_client(pop: ScriptedPop) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(api_key=API_KEY, endpoint=pop.endpoint, retry=QUICK) as client:
        yield client


ORGANIZATION = organization_pb2.Organization(
    id="org_01J00000000000000000000001", name="Celestia Labs", slug="celestia-labs", plan="free"
)
OTHER = organization_pb2.Organization(id="org_01J00000000000000000000002", name="Other", slug="other")
ME = auth_pb2.WhoamiResponse(
    id="user_01J00000000000000000000001",
    email="alice@example.com",
    name="Alice",
    organization=ORGANIZATION,
    role=api_key_pb2.OWNER,
    scopes=["api:keys:read"],
    memberships=[
        auth_pb2.Membership(organization=ORGANIZATION, role=api_key_pb2.OWNER),
        auth_pb2.Membership(organization=OTHER, role=api_key_pb2.VIEWER),
    ],
    session_id="sess_01J00000000000000000000001",
)


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody at a scripted POP, whose session is kept below `home`."""

    pop: ScriptedPop
    login: ScriptedLogin
    endpoint: str
    home: Path

    @property
    def file(self) -> SessionFile:
        return SessionFile(self.home / "popsigner" / "session.json")

    def logged_in(self, *, over: bool = False, organization: str = "") -> Credential:
        """Store a session, whose access token is `over` by the clock."""
        tokens = self.login.issue()
        stored = StoredSession(
            endpoint=f"http://{self.endpoint}",
            access_token=tokens["access_token"],
            refresh_token=tokens["refresh_token"],
            renew_at=time.time() + (-1 if over else 600),
            organization=organization,
        )
        self.file.prepare()
        with self.file.locked():
            self.file.write(stored)
        return Credential(self.file.path)

    def command(self) -> Popsigner:
        """The command line as this person runs it."""
        return Popsigner(self.pop, endpoint=self.endpoint, home=self.home)

    def answer(self, method: str, message: Message) -> None:
        """Answer `Service/Method` so to a valid access token, and TOKEN_EXPIRED to every other one."""
        self.pop.on(method, self.checked(message))

    def checked(self, message: Message) -> Unary:
        async def behaviour(_request: Any, context: Context) -> Message:
            presented = dict(context.invocation_metadata() or ())["authorization"]
            if str(presented).removeprefix("Bearer ") not in self.login.valid:
                return await refuse(context, grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")
            return message

        return behaviour


@pytest.fixture
def person(pop: ScriptedPop, tmp_path: Path) -> Iterator[Person]:
    login = ScriptedLogin()
    server = serve(login)
    port = PublicPort(grpc=pop.endpoint, http=f"127.0.0.1:{server.server_port}")
    login.endpoint = port.endpoint
    person = Person(pop, login, port.endpoint, tmp_path)
    person.answer("AuthService/Whoami", ME)
    yield person
    port.close()
    server.shutdown()
    server.server_close()


@pytest.fixture
def keys(pop: ScriptedPop) -> KeyPop:
    return KeyPop(pop)


@pytest.fixture
def popsigner(pop: ScriptedPop, tmp_path: Path) -> Popsigner:
    key_file = tmp_path / "api.key"
    key_file.write_text(API_KEY + "\n")
    return Popsigner(pop, key_file)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home of a Cosmos program with three keys in its keyring `test`."""
    folder = tmp_path / "home"
    folder.mkdir()
    for number, name in enumerate(("alpha", "beta", "gamma"), start=1):
        CosmosKeyring(folder, "test").write(name, secret(bytes([number]) * 32))
    return folder


@pytest.fixture
def hex_file(tmp_path: Path) -> Path:
    path = tmp_path / "key.hex"
    path.write_text(SECRET.hex() + "\n")
    return path


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Secret]:
    """Every Secret of the test."""
    found: list[Secret] = []
    begin = Secret.__init__

    def watched(self: Secret, scalar: bytearray) -> None:
        found.append(self)
        begin(self, scalar)

    monkeypatch.setattr(Secret, "__init__", watched)
    return found
