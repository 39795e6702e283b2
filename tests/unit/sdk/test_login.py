"""popsigner login, logout and whoami: the device flow as a person meets it, and what is left of it on the machine."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from popsigner import NotAuthenticated, NotPermitted, Unavailable
from popsigner.cli.login import wait_for_tokens
from popsigner.oauth import Device, PendingError, Tokens
from popsigner_server.gen.popsigner.v1 import auth_pb2, key_pb2

from .command import Popsigner, on_a_terminal
from .conftest import ME, ORGANIZATION, OTHER, Person
from .scripted_login import DENIED, EXPIRED, PENDING, Answer, Form
from .scripted_pop import API_KEY, Context, refuse

TOKENS = Tokens(access_token="access", refresh_token="psr_1", expires_in=600)
DEVICE = Device(
    device_code="secret",
    user_code="BCDF-GHJK",
    verification_uri="https://pop.example.com/device",
    verification_uri_complete="",
    expires_in=900,
    interval=5,
)


@pytest.fixture
def popsigner(person: Person) -> Popsigner:
    return person.command()


def test_a_person_logs_in_and_asks_as_themselves_from_then_on(person: Person, popsigner: Popsigner) -> None:
    person.login.polls += [PENDING, PENDING]

    logged_in = popsigner("login", "--no-browser")

    assert logged_in.exit_code == 0, logged_in.output
    assert f"Open http://{person.endpoint}/device\nand type the code BCDF-GHJK\n" in logged_in.stderr
    assert "email: alice@example.com\n" in logged_in.stdout
    assert "member of: Other (other), VIEWER\n" in logged_in.stdout
    assert stat.S_IMODE(person.file.path.stat().st_mode) == 0o600
    start, *polls = person.login.posts
    assert start == ("/oauth/device_authorization", {"client_id": "popsigner-cli"})
    assert [path for path, _form in polls] == ["/oauth/token"] * 3
    assert polls[0][1] == {
        "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
        "device_code": "device-code-secret",
        "client_id": "popsigner-cli",
    }
    for secret in ("device-code-secret", "access-1", "psr_"):
        assert secret not in logged_in.output
    assert popsigner.json("whoami")["id"] == ME.id


def test_what_a_login_prints_for_programs_is_one_document(popsigner: Popsigner) -> None:
    me = popsigner.json("login")

    assert (me["email"], me["organization"]["slug"], me["role"]) == ("alice@example.com", "celestia-labs", "OWNER")


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (DENIED, 3, "denied"),
        (EXPIRED, 3, "begin again"),
        ((400, {"error": "invalid_client", "error_description": "no programs here"}), 1, "no programs here"),
        ((400, {"error": "invalid_request", "error_description": "bad\x1b[2J"}), 3, "HTTP status 400"),
        ((200, {"access_token": "a"}), 1, "no usable refresh_token"),
        ((200, {"access_token": "a\nb", "refresh_token": "b", "expires_in": 1}), 1, "no usable access_token"),
        ((200, {"access_token": "a", "refresh_token": "b", "expires_in": "1"}), 1, "no usable expires_in"),
    ],
)
def test_a_login_that_comes_to_nothing_stores_nothing(
    person: Person, popsigner: Popsigner, answer: Answer, code: int, said: str
) -> None:
    person.login.polls.append(answer)

    result = popsigner("login", "--no-browser")

    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr.splitlines()[-1]
    assert "\x1b" not in result.stderr
    assert not person.file.exists()


@pytest.mark.parametrize(
    "strange",
    [
        {"verification_uri": "file:///etc/passwd"},
        {"verification_uri": "https://pop.example.com/\x1b[2J"},
        {"user_code": "AB\rCD"},
        {"device_code": ""},
        {"expires_in": -1},
        {"interval": True},
    ],
)
def test_a_strange_invitation_to_a_browser_is_not_shown(
    person: Person, popsigner: Popsigner, strange: dict[str, Any]
) -> None:
    usual = person.login.answer("/oauth/device_authorization", {})
    assert usual is not None
    person.login.instead["/oauth/device_authorization"] = lambda _form: (200, usual[1] | strange)

    result = popsigner("login", "--no-browser")

    assert result.exit_code == 1
    assert f"no usable {next(iter(strange))}" in result.stderr
    assert "Open" not in result.stderr


def test_a_pop_without_people_says_so(person: Person, popsigner: Popsigner) -> None:
    person.login.instead["/oauth/device_authorization"] = lambda _form: (404, {})

    result = popsigner("login")

    assert result.exit_code == 1
    assert "does not let people log in" in result.stderr


def test_a_pop_that_does_not_run_ends_a_login_with_7(person: Person, popsigner: Popsigner) -> None:
    result = popsigner("login", "--endpoint", "127.0.0.1:1")

    assert result.exit_code == 7
    assert "127.0.0.1:1 cannot be reached" in result.stderr


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [("http://pop.example.com:8080", "TLS"), ("unix:///run/pop.sock", "public address"), ("ftp://x", "endpoint")],
)
def test_a_login_where_it_cannot_be_is_a_mistake_in_usage(popsigner: Popsigner, endpoint: str, said: str) -> None:
    result = popsigner("login", "--endpoint", endpoint)

    assert result.exit_code == 2
    assert said in result.stderr


def test_a_pop_that_goes_away_in_the_middle_is_asked_again(person: Person, popsigner: Popsigner) -> None:
    down: list[Answer | None] = [(503, {}), None]

    def polled(form: Form) -> Answer | None:
        return down.pop() if down else (200, person.login.issue())

    person.login.instead["/oauth/token"] = polled

    assert popsigner("login", "--no-browser").exit_code == 0
    assert person.file.exists()


class FakeDevice:
    """Answers polls as a test says, on a clock that only waiting moves."""

    def __init__(self, *answers: Exception | Tokens) -> None:
        self.answers = list(answers)
        self.pauses: list[float] = []
        self.now = 0.0

    def poll(self, _device: Device) -> Tokens:
        answer = self.answers.pop(0) if self.answers else PendingError(slower=False)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def wait(self) -> Tokens:
        return wait_for_tokens(
            self,  # type: ignore[arg-type]  # it has what is used of OAuth
            DEVICE,
            report=lambda _left: None,
            clock=lambda: self.now,
            sleep=self.sleep,
        )


def test_the_pop_sets_the_pace_and_slow_down_makes_it_slower_for_good() -> None:
    pending, slower = PendingError(slower=False), PendingError(slower=True)
    device = FakeDevice(pending, slower, pending, slower, TOKENS)

    assert device.wait() is TOKENS
    assert device.pauses == [5, 5, 10, 10, 15]


def test_a_pop_that_is_away_is_asked_at_half_the_pace_each_time_and_then_as_before() -> None:
    away, pending = Unavailable("away"), PendingError(slower=False)
    device = FakeDevice(away, away, away, away, away, pending, TOKENS)

    assert device.wait() is TOKENS
    assert device.pauses == [5, 10, 20, 40, 60, 60, 5]


def test_waiting_ends_when_the_code_is_over() -> None:
    device = FakeDevice()

    with pytest.raises(NotAuthenticated, match="begin again"):
        device.wait()
    assert device.now == DEVICE.expires_in


def test_a_no_ends_the_waiting_at_once() -> None:
    device = FakeDevice(NotPermitted("denied"))

    with pytest.raises(NotPermitted):
        device.wait()
    assert device.pauses == [5]


def test_a_terminal_sees_how_long_is_left(person: Person, popsigner: Popsigner) -> None:
    person.login.polls += [PENDING]

    code, shown = on_a_terminal(popsigner, b"", "login", "--no-browser")

    assert code == 0, shown
    assert "waiting for you, 14:59 left" in shown or "waiting for you, 15:00 left" in shown
    assert "Logged in to" in shown


@pytest.mark.parametrize(("arguments", "opened"), [([], True), (["--no-browser"], False)])
def test_a_browser_is_opened_where_there_is_one(
    person: Person, popsigner: Popsigner, tmp_path: Path, arguments: list[str], opened: bool
) -> None:
    seen = tmp_path / "seen"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}\n')
    browser.chmod(0o755)
    popsigner.environment |= {"DISPLAY": ":0", "BROWSER": f"{browser} %s"}

    code, _shown = on_a_terminal(popsigner, b"", "login", *arguments)

    assert code == 0
    assert seen.exists() is opened
    if opened:
        assert seen.read_text() == f"http://{person.endpoint}/device?user_code=BCDF-GHJK\n"


def test_ctrl_c_ends_a_login_with_one_sentence(person: Person, popsigner: Popsigner) -> None:
    person.login.instead["/oauth/token"] = lambda _form: PENDING
    process = subprocess.Popen(
        [sys.executable, "-c", "from popsigner.cli import main; main()", "login", "--no-browser"],
        env=popsigner.outer_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    told = process.stderr.readline() + process.stderr.readline()
    assert "BCDF-GHJK" in told

    process.send_signal(signal.SIGINT)
    _stdout, stderr = process.communicate(timeout=30)

    assert (process.returncode, stderr) == (1, "popsigner: the log-in was cancelled; nothing was stored\n")
    assert not person.file.exists()


def test_a_login_replaces_the_one_before_and_ends_it(person: Person, popsigner: Popsigner) -> None:
    person.logged_in(organization=OTHER.id)
    before = person.file.read()

    assert popsigner("login", "--no-browser").exit_code == 0

    assert person.login.posts[-1] == (
        "/oauth/revoke",
        {"token": before.refresh_token, "client_id": "popsigner-cli"},
    )
    assert person.file.read().refresh_token != before.refresh_token
    assert person.file.read().organization == ""


def test_a_login_replaces_a_file_that_cannot_be_used(person: Person, popsigner: Popsigner) -> None:
    person.logged_in()
    person.file.path.chmod(0o644)

    assert popsigner("whoami").exit_code == 2
    assert popsigner("login", "--no-browser").exit_code == 0
    assert popsigner("whoami").exit_code == 0
    assert stat.S_IMODE(person.file.path.stat().st_mode) == 0o600


def test_a_place_that_cannot_be_written_to_is_told_before_the_browser(person: Person, popsigner: Popsigner) -> None:
    (person.home / "popsigner").write_text("a file")

    result = popsigner("login")

    assert result.exit_code == 2
    assert "cannot be used" in result.stderr
    assert person.login.posts == []


def test_the_next_login_goes_to_the_same_pop(person: Person, popsigner: Popsigner) -> None:
    person.logged_in()

    assert popsigner("login", "--no-browser", POPSIGNER_ENDPOINT=None).exit_code == 0
    assert popsigner("whoami", POPSIGNER_ENDPOINT=None).exit_code == 0


def test_an_api_key_comes_before_the_login(person: Person, popsigner: Popsigner) -> None:
    person.logged_in()
    person.pop.answer("AuthService/Whoami", auth_pb2.WhoamiResponse(id="ak_1", name="prover"))

    assert popsigner("whoami", POPSIGNER_API_KEY=API_KEY).stdout == "id: ak_1\nname: prover\n"
    assert person.pop.seen[-1].metadata["authorization"] == f"Bearer {API_KEY}"


def test_nobody_logged_in_and_no_api_key_is_one_clear_sentence(popsigner: Popsigner) -> None:
    result = popsigner("keys", "list")

    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "popsigner login" in result.stderr
    assert "POPSIGNER_API_KEY_FILE" in result.stderr


def test_an_ended_session_ends_with_3_and_says_what_to_do(person: Person, popsigner: Popsigner) -> None:
    person.logged_in()

    async def ended(_request: Any, context: Context) -> Message:
        return await refuse(context, grpc.StatusCode.UNAUTHENTICATED, "SESSION_ENDED", "the session was ended")

    person.pop.on("AuthService/Whoami", ended)

    result = popsigner("whoami")

    assert result.exit_code == 3
    assert "popsigner login" in result.stderr
    assert "[SESSION_ENDED]" in result.stderr


def test_logging_out_ends_the_session_there_and_here(person: Person, popsigner: Popsigner) -> None:
    person.logged_in()
    token = person.file.read().refresh_token

    assert popsigner("logout").stdout == "logged out\n"

    assert person.login.posts == [("/oauth/revoke", {"token": token, "client_id": "popsigner-cli"})]
    assert not person.file.exists()
    assert popsigner("logout").stdout == "nobody was logged in\n"


def test_logging_out_everywhere_ends_every_session(person: Person, popsigner: Popsigner) -> None:
    person.logged_in(over=True)
    person.answer("AuthService/RevokeAllSessions", auth_pb2.RevokeAllSessionsResponse(ended=3))

    assert popsigner.json("logout", "--everywhere") == {"ended": 3}
    assert not person.file.exists()


@pytest.mark.parametrize("everywhere", [[], ["--everywhere"]])
def test_logging_out_from_a_pop_that_is_away_can_be_tried_again(
    person: Person, popsigner: Popsigner, everywhere: list[str]
) -> None:
    person.logged_in(over=True)
    person.login.instead["/oauth/revoke"] = lambda _form: None
    person.login.instead["/oauth/token"] = lambda _form: None

    assert popsigner("logout", *everywhere).exit_code == 7
    assert person.file.exists()


def test_org_use_chooses_the_organization_of_the_login(person: Person, popsigner: Popsigner) -> None:
    person.logged_in(organization="org_left")

    assert "slug: other\n" in popsigner("org", "use", "other").stdout
    # The one before may be one that the person has left: to choose, no organization is named.
    assert "x-popsigner-organization" not in person.pop.seen[-1].metadata
    popsigner("whoami")
    assert person.pop.seen[-1].metadata["x-popsigner-organization"] == OTHER.id
    popsigner("whoami", "--organization", "celestia-labs")
    assert person.pop.seen[-1].metadata["x-popsigner-organization"] == "celestia-labs"
    popsigner("whoami", POPSIGNER_ORGANIZATION=ORGANIZATION.id)
    assert person.pop.seen[-1].metadata["x-popsigner-organization"] == ORGANIZATION.id
    assert popsigner("org", "use", "nobodys").exit_code == 4
    assert "unset POPSIGNER_API_KEY" in popsigner("org", "use", "other", POPSIGNER_API_KEY=API_KEY).stderr


def test_the_chosen_organization_outlives_a_renewal(person: Person, popsigner: Popsigner) -> None:
    person.logged_in(over=True, organization=OTHER.id)

    popsigner("whoami")

    assert (person.login.trades, person.file.read().organization) == (1, OTHER.id)


def test_commands_of_a_person_sign_too(person: Person, popsigner: Popsigner) -> None:
    person.logged_in(over=True)
    person.answer("KeyService/ListKeys", key_pb2.ListKeysResponse(keys=[key_pb2.Key(id="key_1", name="a")]))

    assert [each["id"] for each in popsigner.json("keys", "list")["keys"]] == ["key_1"]


def test_whoami_shows_names_without_what_a_terminal_would_obey(person: Person, popsigner: Popsigner) -> None:
    person.logged_in()
    me = auth_pb2.WhoamiResponse(id="user_1", name="Mallory\x1b]0;owned\x07\nrole: OWNER")
    person.answer("AuthService/Whoami", me)

    shown = popsigner("whoami").stdout

    assert "\x1b" not in shown
    assert "\nrole: OWNER" not in shown
    assert json.loads(popsigner("whoami", "--json").stdout)["name"] == me.name


def test_no_command_takes_a_secret_as_an_argument() -> None:
    environment = {**os.environ, "COLUMNS": "200"}
    for words in (["login"], ["org", "connect-oidc"], ["invitations", "accept"], ["logout"], ["api-keys", "rotate"]):
        done = subprocess.run(
            [sys.executable, "-c", "from popsigner.cli import main; main()", *words, "--help"],
            capture_output=True,
            text=True,
            env=environment,
            check=True,
        )
        for option in ("--token ", "--client-secret ", "--api-key ", "--refresh-token"):
            assert option not in done.stdout
