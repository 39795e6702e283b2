"""A person's credential: one trade for every access token that is over, whoever asks, and in however many programs."""

import asyncio
import inspect
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from popsigner import (
    AsyncClient,
    Client,
    ConfigurationError,
    Credential,
    RateLimited,
    Retry,
    SessionEnded,
    SignItem,
    TokenExpired,
    Unavailable,
)
from popsigner_server.gen.popsigner.v1 import auth_pb2, key_pb2, sign_pb2

from .conftest import ME, Person
from .scripted_login import Answer, Form
from .scripted_pop import API_KEY, Context, refuse

QUICK = Retry(attempts=4, initial=0.005, ceiling=0.02)


def test_a_person_asks_with_the_stored_access_token(person: Person) -> None:
    with Client(credential=person.logged_in()) as client:
        assert client.whoami().email == "alice@example.com"
        assert client.endpoint.http == f"http://{person.endpoint}"

    (seen,) = person.pop.called("AuthService/Whoami")
    assert seen.metadata["authorization"] == "Bearer access-1"
    assert person.login.posts == []


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("known", ["by the clock", "by the POP"])
async def test_an_access_token_that_is_over_is_traded_once(person: Person, kind: Any, known: str) -> None:
    credential = person.logged_in(over=known == "by the clock")
    person.login.expire()

    client = kind(credential=credential)
    answered = [await each if inspect.isawaitable(each) else each for each in (client.whoami(), client.whoami())]
    closed = client.close()
    await closed if inspect.isawaitable(closed) else None

    assert [each.id for each in answered] == [ME.id, ME.id]
    assert person.login.trades == 1
    assert person.file.read().access_token == "access-2"
    assert person.file.read().refresh_token == person.login.refresh
    refused = len(person.pop.called("AuthService/Whoami")) - 2
    assert refused == (1 if known == "by the POP" else 0)


def test_what_changes_something_is_sent_again_after_token_expired_but_once(person: Person) -> None:
    person.answer("KeyService/CreateKey", key_pb2.CreateKeyResponse(key=key_pb2.Key(id="key_1")))
    credential = person.logged_in()
    person.login.expire()

    with Client(credential=credential) as client:
        assert client.keys.create(name="a").id == "key_1"
        person.login.issue = lambda: {  # type: ignore[method-assign]  # tokens that the POP itself does not take
            "access_token": "never-valid",
            "refresh_token": person.login.refresh,
            "expires_in": 600,
        }
        person.login.expire()
        with pytest.raises(TokenExpired):
            client.keys.create(name="b")

    assert len(person.pop.called("KeyService/CreateKey")) == 4


async def test_many_calls_at_once_share_one_trade(person: Person) -> None:
    async with AsyncClient(credential=person.logged_in(over=True)) as client:
        everybody = await asyncio.gather(*(client.whoami() for _ in range(50)))

    assert len(everybody) == 50
    assert person.login.trades == 1


def test_threads_share_one_trade(person: Person) -> None:
    with Client(credential=person.logged_in(over=True)) as client:
        answered: list[str] = []
        threads = [threading.Thread(target=lambda: answered.append(client.whoami().id)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)

    assert answered == [ME.id] * 8
    assert person.login.trades == 1


PROGRAM = """
import sys
from popsigner import Client, Credential

with Client(credential=Credential(sys.argv[1])) as client:
    for line in sys.stdin:
        print(client.whoami().id, flush=True)
"""


def test_two_programs_trade_once_for_each_access_token_that_is_over(person: Person) -> None:
    """Each expiry meets both at once. The server holds every trade until a second one has had a second's time to come:
    the one that a missing lock would send."""
    person.logged_in()
    arrived: list[None] = []
    second = threading.Event()

    def hold() -> None:
        arrived.append(None)
        if len(arrived) > 1:
            second.set()
        second.wait(1.0)
        arrived.clear()

    person.login.before_trade = hold
    command = [sys.executable, "-c", PROGRAM, str(person.file.path)]
    programs = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) for _ in range(2)
    ]
    try:
        for expiries in range(4):
            for each in programs:
                assert each.stdin is not None
                each.stdin.write("\n")
                each.stdin.flush()
            answers = [each.stdout.readline().strip() for each in programs if each.stdout is not None]

            assert answers == [ME.id, ME.id]
            assert (person.login.trades, person.login.reused) == (expiries, False)
            person.login.expire()
    finally:
        for each in programs:
            each.communicate(timeout=30)
    assert [each.returncode for each in programs] == [0, 0]


def test_a_session_that_another_program_renewed_is_taken_from_the_file(person: Person) -> None:
    with Client(credential=person.logged_in()) as first, Client(credential=Credential(person.file.path)) as second:
        first.whoami()
        person.login.expire()
        first.whoami()
        second.whoami()

    assert person.login.trades == 1


def test_an_ended_session_says_so(person: Person) -> None:
    credential = person.logged_in(over=True)
    person.login.refresh = "another"

    with Client(credential=credential) as client, pytest.raises(SessionEnded, match="popsigner login"):
        client.whoami()


def test_a_pop_that_is_away_while_it_renews_is_asked_again(person: Person) -> None:
    credential = person.logged_in(over=True)
    failures: list[Answer | None] = [None, (503, {}), (502, {"error": "temporarily_unavailable"})]

    def away(form: Form) -> Answer | None:
        if failures:
            return failures.pop()
        del person.login.instead["/oauth/token"]
        person.login.posts.pop()
        return person.login.answer("/oauth/token", form)

    person.login.instead["/oauth/token"] = away
    with Client(credential=credential, retry=QUICK) as client:
        assert client.whoami().id == ME.id

    assert person.login.trades == 1


def test_a_pop_that_stays_away_is_unavailable(person: Person) -> None:
    credential = person.logged_in(over=True)
    person.login.instead["/oauth/token"] = lambda _form: None

    with Client(credential=credential, retry=QUICK) as client, pytest.raises(Unavailable, match="cannot be reached"):
        client.whoami()
    assert person.file.read().access_token == "access-1"


def test_a_busy_pop_says_how_long_to_wait(person: Person) -> None:
    credential = person.logged_in(over=True)
    person.login.instead["/oauth/token"] = lambda _form: (429, {"headers": {"retry-after": "7"}})

    with Client(credential=credential, retry=None) as client, pytest.raises(RateLimited) as caught:
        client.whoami()
    assert caught.value.retry_after == 7


def test_no_redirect_takes_a_token_elsewhere(person: Person) -> None:
    credential = person.logged_in(over=True)
    person.login.instead["/oauth/token"] = lambda _form: (
        307,
        {"headers": {"location": f"http://{person.endpoint}/elsewhere"}},
    )

    with Client(credential=credential, retry=None) as client, pytest.raises(Exception, match="HTTP status 307"):
        client.whoami()
    assert [path for path, _form in person.login.posts] == ["/oauth/token"]


def test_no_error_repeats_a_token(person: Person) -> None:
    credential = person.logged_in(over=True)
    secret = person.login.refresh
    person.login.instead["/oauth/token"] = lambda _form: None

    with Client(credential=credential, retry=None) as client, pytest.raises(Unavailable) as caught:
        client.whoami()

    told = f"{caught.value!r} {caught.value.__context__!r} {caught.value.__cause__!r} {credential!r} {client!r}"
    assert secret not in told


def test_a_call_that_cannot_wait_leaves_a_trade_that_goes_on(person: Person) -> None:
    credential = person.logged_in(over=True)
    release = threading.Event()
    person.login.before_trade = lambda: release.wait(20)

    with Client(credential=credential, retry=None) as client:
        with pytest.raises(Exception, match="did not renew the session in time"):
            client.whoami(timeout=0.1)
        release.set()
        assert client.whoami().id == ME.id

    assert (person.login.trades, person.login.reused) == (1, False)


def holding(asked: threading.Event, release: threading.Event) -> Callable[[], object]:
    """Tells that a trade has arrived, and lets it wait."""

    def hold() -> object:
        asked.set()
        return release.wait(20)

    return hold


async def test_a_cancelled_call_leaves_a_trade_that_goes_on(person: Person) -> None:
    credential = person.logged_in(over=True)
    asked, release = threading.Event(), threading.Event()
    person.login.before_trade = holding(asked, release)

    async with AsyncClient(credential=credential) as client:
        leaving = asyncio.create_task(client.whoami())
        await asyncio.to_thread(asked.wait, 10)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        release.set()
        assert (await client.whoami()).id == ME.id

    assert (person.login.trades, person.login.reused) == (1, False)


def test_a_session_is_shown_to_no_other_pop(person: Person) -> None:
    credential = person.logged_in()

    for elsewhere in ("127.0.0.1:1", "https://pop.example.com", f"https://{person.endpoint}", "unix:///run/pop.sock"):
        with pytest.raises(ConfigurationError, match="you are logged in to"):
            Client(credential=credential, endpoint=elsewhere)


def test_a_login_at_another_pop_meanwhile_is_not_mixed_in(person: Person) -> None:
    with Client(credential=person.logged_in()) as client:
        client.whoami()
        person.login.expire()
        at(person, "http://127.0.0.1:1")
        person.login.expire()

        with pytest.raises(ConfigurationError, match="another POP"):
            client.whoami()
    assert person.login.trades == 0


def at(person: Person, endpoint: str) -> Credential:
    """The credential of the same session, as if it came from there."""
    credential = person.logged_in()
    with person.file.locked():
        person.file.write(replace(person.file.read(), endpoint=endpoint))
    return Credential(credential.file.path)


def test_a_session_in_plaintext_to_another_machine_needs_to_be_asked_for_by_name(person: Person) -> None:
    credential = at(person, "http://pop.example.com:8080")

    with pytest.raises(ConfigurationError, match="insecure=True"):
        Client(credential=credential)
    Client(credential=credential, insecure=True).close()


def test_an_api_key_and_a_credential_are_not_taken_together(person: Person) -> None:
    with pytest.raises(ConfigurationError, match="not both"):
        Client(credential=person.logged_in(), api_key=API_KEY)


def test_the_environment_gives_no_api_key_beside_a_credential(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POPSIGNER_API_KEY", API_KEY)

    with Client(credential=person.logged_in()) as client:
        client.whoami()

    assert person.pop.seen[0].metadata["authorization"] == "Bearer access-1"


def test_the_organization_that_is_meant_goes_with_every_call(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    credential = person.logged_in(organization="org_chosen")

    def meant(**options: Any) -> Any:
        person.pop.seen.clear()
        with Client(credential=credential, **options) as client:
            client.whoami()
        return person.pop.seen[0].metadata.get("x-popsigner-organization")

    assert meant() == "org_chosen"
    monkeypatch.setenv("POPSIGNER_ORGANIZATION", "from-environment")
    assert meant() == "from-environment"
    assert meant(organization="celestia-labs") == "celestia-labs"
    assert meant(organization="") is None


@pytest.mark.parametrize("wrong", ["two words", "new\nline", "ä", "a/b"])
def test_what_is_no_organization_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match="slug"):
        Client(api_key=API_KEY, organization=wrong)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_an_archive_comes_in_pieces_and_begins_anew_only_before_the_first(person: Person, kind: Any) -> None:
    credential = person.logged_in()
    breaks: list[bool] = []

    async def archive(_request: Any, context: Context) -> AsyncIterator[Message]:
        presented = str(dict(context.invocation_metadata() or ())["authorization"])
        if presented.removeprefix("Bearer ") not in person.login.valid:
            await refuse(context, grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")
        for chunk in (b"PK", b"\x03\x04"):
            yield auth_pb2.ExportAccountResponse(chunk=chunk)
            if breaks:
                await refuse(context, grpc.StatusCode.UNAVAILABLE, "DRAINING")

    person.pop.download = archive
    person.login.expire()

    async def exported(client: Any) -> list[bytes]:
        pieces = client.account.export()
        return [each async for each in pieces] if hasattr(pieces, "__aiter__") else list(pieces)

    client = kind(credential=credential, retry=QUICK)
    assert await exported(client) == [b"PK", b"\x03\x04"]
    assert len(person.pop.called("AuthService/ExportAccount")) == 2
    breaks.append(True)
    with pytest.raises(Unavailable):
        await exported(client)
    assert len(person.pop.called("AuthService/ExportAccount")) == 3
    closed = client.close()
    await closed if inspect.isawaitable(closed) else None


async def test_a_stream_begins_with_an_access_token_of_now(person: Person) -> None:
    presented: list[str] = []

    async def stream(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Message]:
        presented.append(str(dict(context.invocation_metadata() or ())["authorization"]))
        async for request in requests:
            result = sign_pb2.SignResult(key_id="k", signature=b"s" * 64)
            yield sign_pb2.SignStreamResponse(correlation_id=request.correlation_id, signatures=[result])

    person.pop.stream = stream
    async with AsyncClient(credential=person.logged_in(over=True)) as client:
        signed = [result.unwrap() async for _tag, result in client.sign_stream([SignItem("k", b"d")])]

    assert len(signed) == 1
    assert presented == ["Bearer access-2"]


async def test_a_stream_that_was_refused_begins_with_another_access_token(person: Person) -> None:
    async def stream(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Message]:
        presented = str(dict(context.invocation_metadata() or ())["authorization"])
        if presented.removeprefix("Bearer ") not in person.login.valid:
            await refuse(context, grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")
        async for request in requests:
            result = sign_pb2.SignResult(key_id="k", signature=b"s" * 64)
            yield sign_pb2.SignStreamResponse(correlation_id=request.correlation_id, signatures=[result])

    person.pop.stream = stream
    async with AsyncClient(credential=person.logged_in()) as client:
        person.login.expire()
        with pytest.raises(TokenExpired):
            _refused = [each async for each in client.sign_stream([SignItem("k", b"d")])]
        signed = [result.unwrap() async for _tag, result in client.sign_stream([SignItem("k", b"d")])]

    assert (len(signed), person.login.trades) == (1, 1)


def test_ctrl_c_in_a_trade_does_not_lose_the_session(person: Person) -> None:
    person.logged_in(over=True)
    asked, release = threading.Event(), threading.Event()
    person.login.before_trade = holding(asked, release)
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(person.file.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdin is not None
    program.stdin.write("\n")
    program.stdin.flush()
    assert asked.wait(20)

    program.send_signal(2)
    began = time.monotonic()
    release.set()
    program.communicate(timeout=30)

    assert time.monotonic() - began < 25
    assert program.returncode != 0
    assert person.file.read().access_token == "access-2"
    assert person.file.read().refresh_token == person.login.refresh
