"""The file that a person's session rests in: whole, for its owner alone, and in one program's hands at a time."""

import json
import os
import stat
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from popsigner import ConfigurationError, Credential, Unavailable
from popsigner.store import SessionFile, StoredSession, default_path


def stored(**changes: Any) -> StoredSession:
    session = StoredSession(
        endpoint="http://127.0.0.1:8080", access_token="access", refresh_token="psr_secret", renew_at=1.0
    )
    return replace(session, **changes)


@pytest.fixture
def file(tmp_path: Path) -> SessionFile:
    file = SessionFile(tmp_path / "config" / "popsigner" / "session.json")
    file.prepare()
    with file.locked():
        file.write(stored())
    return file


def test_a_session_is_kept_for_its_owner_alone(file: SessionFile) -> None:
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    assert file.read() == stored()
    assert "secret" not in repr(file.read())


def test_a_session_is_replaced_as_a_whole(file: SessionFile) -> None:
    with file.path.open() as open_before:
        with file.locked():
            file.write(stored(access_token="next"))

        assert json.load(open_before) == asdict(stored())
    assert file.read().access_token == "next"
    assert sorted(each.name for each in file.path.parent.iterdir()) == ["session.json", "session.lock"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_session_that_others_can_read_is_not_used(file: SessionFile, mode: int) -> None:
    file.path.chmod(mode)

    with pytest.raises(ConfigurationError, match="others can read"):
        Credential(file.path)


def test_a_session_of_somebody_else_is_not_used(file: SessionFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)

    with pytest.raises(ConfigurationError, match="not yours"):
        Credential(file.path)


def test_a_link_in_the_place_of_a_session_is_not_followed(file: SessionFile) -> None:
    elsewhere = file.path.rename(file.path.with_name("elsewhere"))
    file.path.symlink_to(elsewhere)

    with pytest.raises(ConfigurationError, match="cannot be used"):
        Credential(file.path)


def test_a_folder_that_others_can_write_to_is_not_used(file: SessionFile) -> None:
    file.path.parent.chmod(0o770)

    with pytest.raises(ConfigurationError, match="others can write"), file.locked():
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"endpoint": 1}', json.dumps(asdict(stored()) | {"x": 1})])
def test_what_is_no_session_is_refused_without_being_repeated(file: SessionFile, content: str) -> None:
    file.path.write_text(content)

    with pytest.raises(ConfigurationError, match="does not hold a session") as caught:
        Credential(file.path)
    assert "psr_" not in str(caught.value)


def test_nobody_is_logged_in_where_there_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="popsigner login"):
        Credential(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"XDG_CONFIG_HOME": "/x"}, Path("/x/popsigner/session.json")),
        ({"XDG_CONFIG_HOME": "x"}, Path.home() / ".config/popsigner/session.json"),
        ({}, Path.home() / ".config/popsigner/session.json"),
    ],
)
def test_the_session_is_where_configuration_is(environment: dict[str, str], expected: Path) -> None:
    assert default_path(environment) == expected


def test_two_who_want_the_lock_wait_for_each_other(file: SessionFile) -> None:
    inside, leave, order = threading.Event(), threading.Event(), []

    def first() -> None:
        with file.locked():
            inside.set()
            leave.wait(10)
            order.append("first")

    holder = threading.Thread(target=first)
    holder.start()
    assert inside.wait(10)

    def second() -> None:
        with file.locked():
            order.append("second")

    waiter = threading.Thread(target=second)
    waiter.start()
    leave.set()
    holder.join(10)
    waiter.join(10)

    assert order == ["first", "second"]


def test_a_program_that_never_lets_go_is_not_waited_for_without_end(
    file: SessionFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("popsigner.store._PATIENCE", 0.05)

    with file.locked(), pytest.raises(Unavailable, match="another program"), file.locked():
        pass
