"""`popsigner login` at a real POP, with a real identity provider and a person with a browser."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from popsigner import AsyncClient, Client, Credential, Role, SessionEnded
from popsigner.endpoint import Connection, parse_endpoint
from popsigner.oauth import OAuth, PendingError
from popsigner.store import SessionFile
from tests.support.login import Browser, approve_device, log_in
from tests.support.oidc_provider import OidcProvider
from tests.support.pop import Pop

PROGRAM = Path(sys.executable).with_name("popsigner")


@pytest.fixture
def oauth(pop: Pop) -> OAuth:
    return OAuth(Connection(endpoint=parse_endpoint(pop.http)))


def test_a_device_waits_for_its_person(oauth: OAuth) -> None:
    device = oauth.start_device()

    assert re.fullmatch(r"[A-Z0-9]{4}-[A-Z0-9]{4}", device.user_code)
    assert device.interval >= 1
    with pytest.raises(PendingError) as pending:
        oauth.poll(device)
    assert not pending.value.slower
    with pytest.raises(PendingError) as hasty:
        oauth.poll(device)
    assert hasty.value.slower


def test_a_refresh_token_of_nobody_is_an_ended_session(oauth: OAuth) -> None:
    with pytest.raises(SessionEnded):
        oauth.renew("psr_" + "0" * 64)

    oauth.revoke("psr_" + "0" * 64)


def test_the_command_shows_a_code_and_leaves_nothing_when_it_is_interrupted(pop: Pop, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [str(PROGRAM), "login", "--no-browser", "--endpoint", pop.http],
        env=os.environ | {"XDG_CONFIG_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    told = process.stderr.readline() + process.stderr.readline()

    process.send_signal(signal.SIGINT)
    _stdout, rest = process.communicate(timeout=60)

    assert re.search(r"Open https?://\S+\nand type the code [A-Z0-9]{4}-[A-Z0-9]{4}\n", told)
    assert process.returncode == 1
    assert "cancelled" in rest
    assert not (tmp_path / "popsigner" / "session.json").exists()


def over(file: SessionFile) -> None:
    """Let the access token be over by this machine's clock, as ten minutes would."""
    with file.locked():
        file.write(replace(file.read(), renew_at=0.0))


async def test_a_person_logs_in_renews_and_logs_out(pop: Pop, client: Client, tmp_path: Path) -> None:
    environment = os.environ | {"XDG_CONFIG_HOME": str(tmp_path), "POPSIGNER_ENDPOINT": pop.http}
    for name in ("POPSIGNER_API_KEY", "POPSIGNER_API_KEY_FILE", "POPSIGNER_ORGANIZATION"):
        environment.pop(name, None)
    file = SessionFile(tmp_path / "popsigner" / "session.json")

    async def popsigner(*arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        return await asyncio.to_thread(
            subprocess.run,
            [str(PROGRAM), *arguments],
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    alice = {"email": "alice@example.com", "email_verified": True, "name": "Alice"}
    with OidcProvider.started({"alice": alice}) as provider:
        connected = client.identity_providers.connect(
            issuer=provider.issuer, client_id=provider.client_id, client_secret=provider.client_secret
        )
        invited = client.invitations.create(email="alice@example.com", role=Role.OPERATOR)
        browser = Browser(pop.http)
        assert (await log_in(browser, connected.id, "alice")).status_code == 303
        command = await asyncio.create_subprocess_exec(
            str(PROGRAM), "login", "--no-browser", env=environment, stderr=asyncio.subprocess.PIPE
        )
        assert command.stderr is not None
        told = (await command.stderr.readline() + await command.stderr.readline()).decode()
        assert (await approve_device(browser, told.split()[-1])).status_code == 200
        await asyncio.wait_for(command.wait(), 60)

    assert command.returncode == 0
    assert (await popsigner("invitations", "accept", stdin=invited.token)).returncode == 0
    me = json.loads((await popsigner("whoami", "--json")).stdout)
    assert (me["email"], me["role"]) == ("alice@example.com", "OPERATOR")

    over(file)
    answers = await asyncio.gather(*(popsigner("sessions", "list") for _ in range(3)))
    assert [each.returncode for each in answers] == [0, 0, 0], answers
    over(file)
    async with AsyncClient(credential=Credential(file.path)) as person:
        assert len(await asyncio.gather(*(person.whoami() for _ in range(20)))) == 20
        archive = b"".join([chunk async for chunk in person.account.export()])
    assert archive.startswith(b"PK")

    assert (await popsigner("logout", "--everywhere")).returncode == 0
    assert not file.exists()
    assert (await popsigner("whoami")).returncode == 2
    (member,) = client.members.list()
    assert member.email == "alice@example.com"
    client.members.remove(member, revoke_api_keys=True)
    client.identity_providers.disconnect(connected)
