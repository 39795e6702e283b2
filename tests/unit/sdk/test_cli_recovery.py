"""popsigner recovery …, and what owners are told when they say who they are."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from popsigner import Client
from popsigner.keyfiles import keystore
from popsigner.recovery import Bundle, bundle
from popsigner_server.gen.popsigner.v1 import auth_pb2, recovery_pb2

from .command import Popsigner, on_a_terminal
from .conftest import ME, Person
from .scripted_pop import API_KEY, Context, ScriptedPop, refuse
from .sealed import Identity, SealedKey, bundle_of

IDENTITY = Identity()
OTHER = Identity()
KEYS = (
    SealedKey("sequencer", scalars=(os.urandom(32), os.urandom(32))),
    SealedKey("bridge", "staging", "osmo"),
    SealedKey("sequencer", "staging", "osmo"),
)
UNCOVERED = b"\x02" + b"\x07" * 32


def moment(day: int) -> Timestamp:
    found = Timestamp()
    found.FromDatetime(datetime(2026, 11, day, tzinfo=UTC))
    return found


REGISTERED = recovery_pb2.Recovery(recipient=IDENTITY.recipient, since=moment(1), keys=3, covered=2)
WAITING = recovery_pb2.Recovery(
    recipient=IDENTITY.recipient,
    since=moment(1),
    keys=3,
    covered=3,
    change=recovery_pb2.RecoveryChange(
        recipient=OTHER.recipient, announced_at=moment(2), effective_at=moment(5), announced_by="user_1"
    ),
)


@pytest.fixture
def popsigner(pop: ScriptedPop, tmp_path: Path) -> Popsigner:
    key_file = tmp_path / "api.key"
    key_file.write_text(API_KEY + "\n")
    pop.answer("RecoveryService/GetRecovery", recovery_pb2.GetRecoveryResponse(recovery=REGISTERED))
    pop.answer("RecoveryService/SetRecoveryRecipient", recovery_pb2.SetRecoveryRecipientResponse(recovery=WAITING))
    pop.answer("RecoveryService/CancelRecoveryChange", recovery_pb2.CancelRecoveryChangeResponse(recovery=REGISTERED))
    return Popsigner(pop, key_file)


@pytest.fixture
def identity(tmp_path: Path) -> str:
    path = tmp_path / "identity.txt"
    path.write_bytes(IDENTITY.file)
    return str(path)


# -- the recipient


def test_what_is_registered_is_shown(popsigner: Popsigner) -> None:
    assert popsigner("recovery", "show").stdout.splitlines() == [
        f"recipient: {IDENTITY.recipient}",
        "since: 2026-11-01T00:00:00Z",
        "keys: 3",
        "covered: 2",
    ]
    assert popsigner.json("recovery", "show")["change"] is None


def test_what_waits_is_shown_with_who_and_until_when(popsigner: Popsigner) -> None:
    popsigner.pop.answer("RecoveryService/GetRecovery", recovery_pb2.GetRecoveryResponse(recovery=WAITING))

    result = popsigner("recovery", "show")

    assert f"waiting: the recipient {OTHER.recipient} for all keys" in result.stdout
    assert (
        "announced_by: user_1\nannounced_at: 2026-11-02T00:00:00Z\neffective_at: 2026-11-05T00:00:00Z" in result.stdout
    )
    assert "`popsigner recovery cancel`" in result.stderr
    assert popsigner.json("recovery", "show")["change"]["announced_by"] == "user_1"


def test_a_recipient_is_set_when_its_end_was_typed(popsigner: Popsigner) -> None:
    result = popsigner("recovery", "set", OTHER.recipient, "--confirm", OTHER.recipient[-6:])

    assert result.exit_code == 0, result.output
    assert popsigner.sent("RecoveryService/SetRecoveryRecipient").recipient == OTHER.recipient
    assert "effective_at: 2026-11-05T00:00:00Z" in result.stdout


@pytest.mark.parametrize("given", ["", "yes", "age1", IDENTITY.recipient[-6:]])
def test_another_end_changes_nothing(popsigner: Popsigner, given: str) -> None:
    result = popsigner("recovery", "set", OTHER.recipient, "--confirm", given)

    # Without anything to confirm, and without a terminal, it is a mistake in usage.
    assert result.exit_code == (1 if given else 2)
    assert not popsigner.pop.called("RecoveryService/SetRecoveryRecipient")


def test_on_a_terminal_the_question_says_what_it_means(popsigner: Popsigner) -> None:
    typed = OTHER.recipient[-6:].encode() + b"\n"

    code, shown = on_a_terminal(popsigner, typed, "recovery", "set", OTHER.recipient, after=b"characters")

    assert code == 0, shown
    assert f"Seal the copies of all 3 keys to {OTHER.recipient} after the waiting period?" in shown
    assert popsigner.sent("RecoveryService/SetRecoveryRecipient").recipient == OTHER.recipient


def test_a_removal_asks_for_the_end_of_what_is_removed(popsigner: Popsigner) -> None:
    assert popsigner("recovery", "set", "--remove", "--confirm", OTHER.recipient[-6:]).exit_code == 1
    assert popsigner("recovery", "set", "--remove", "--confirm", IDENTITY.recipient[-6:]).exit_code == 0
    assert popsigner.sent("RecoveryService/SetRecoveryRecipient").recipient == ""


def test_a_removal_of_nothing_asks_nothing(popsigner: Popsigner) -> None:
    popsigner.pop.answer(
        "RecoveryService/GetRecovery", recovery_pb2.GetRecoveryResponse(recovery=recovery_pb2.Recovery())
    )
    for given in ("", "anything"):
        result = popsigner("recovery", "set", "--remove", "--confirm", given)
        assert result.exit_code == 4, result.output
        assert "no recovery recipient is registered" in result.stderr
    assert not popsigner.pop.called("RecoveryService/SetRecoveryRecipient")


def test_a_recipient_comes_from_a_file(popsigner: Popsigner, tmp_path: Path) -> None:
    path = tmp_path / "recipient.txt"
    path.write_text(f"# of the safe in Zug\n\n{OTHER.recipient}\n")
    end = ("--confirm", OTHER.recipient[-6:])

    assert popsigner("recovery", "set", "--recipient-file", str(path), *end).exit_code == 0
    assert popsigner.sent("RecoveryService/SetRecoveryRecipient").recipient == OTHER.recipient
    for content in ("", f"{OTHER.recipient}\n{IDENTITY.recipient}\n", "# nothing\n"):
        path.write_text(content)
        assert popsigner("recovery", "set", "--recipient-file", str(path), *end).exit_code == 2
    assert popsigner("recovery", "set", "--recipient-file", str(tmp_path / "none"), *end).exit_code == 2
    assert len(popsigner.pop.called("RecoveryService/SetRecoveryRecipient")) == 1


def test_an_identity_is_never_sent(popsigner: Popsigner, identity: str) -> None:
    secret = str(IDENTITY.made)
    for arguments in ([secret], [secret.lower()], ["--recipient-file", identity]):
        result = popsigner("recovery", "set", *arguments, "--confirm", secret[-6:])
        assert result.exit_code == 2
        assert "was not sent" in result.stderr
        assert secret.lower() not in result.output.lower()
    assert not popsigner.pop.seen


@pytest.mark.parametrize("wrong", [[], [OTHER.recipient, "--remove"], ["--remove", "--recipient-file", "x"]])
def test_one_way_to_say_it_is_needed(popsigner: Popsigner, wrong: list[str]) -> None:
    assert popsigner("recovery", "set", *wrong).exit_code == 2
    assert not popsigner.pop.seen


def test_a_change_that_waits_is_cancelled(popsigner: Popsigner) -> None:
    assert popsigner("recovery", "cancel").exit_code == 2
    assert popsigner("recovery", "cancel", "--yes").exit_code == 0
    assert len(popsigner.pop.called("RecoveryService/CancelRecoveryChange")) == 1


def test_refusals_say_what_to_do(popsigner: Popsigner) -> None:
    async def waits(_request: Any, context: Context) -> Message:
        return await refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "RECOVERY_CHANGE_WAITING", "another waits")

    popsigner.pop.on("RecoveryService/SetRecoveryRecipient", waits)
    result = popsigner("recovery", "set", OTHER.recipient, "--confirm", OTHER.recipient[-6:])

    assert result.exit_code == 5
    assert "`popsigner recovery cancel`" in result.stderr


def test_an_empty_recipient_is_no_removal(client: Client) -> None:
    with pytest.raises(ValueError, match="None removes"):
        client.recovery.set("")


# -- the bundle


def copies_of(found: Bundle) -> list[recovery_pb2.RecoveryCopy]:
    return [
        recovery_pb2.RecoveryCopy(
            label=entry.label,
            versions=[
                recovery_pb2.RecoveryVersion(public_key=each.public_key.hex(), ciphertext=each.ciphertext)
                for each in entry.versions
            ],
        )
        for entry in found.entries
    ]


WHOLE = bundle_of(IDENTITY, *KEYS)


def serve(pop: ScriptedPop, *, uncovered: tuple[bytes, ...] = ()) -> None:
    """Two keys on the first page, one on the second."""
    copies = copies_of(WHOLE)

    async def pages(request: Any, _context: Context) -> Message:
        first = not request.cursor
        return recovery_pb2.ListRecoveryCopiesResponse(
            copies=copies[:2] if first else copies[2:],
            next_cursor="second" if first else "",
            recipient=IDENTITY.recipient,
            uncovered=[] if first else [each.hex() for each in uncovered],
        )

    pop.on("RecoveryService/ListRecoveryCopies", pages)


def test_all_pages_go_into_one_file(popsigner: Popsigner, tmp_path: Path) -> None:
    serve(popsigner.pop)
    path = tmp_path / "recovery.bundle"

    result = popsigner("recovery", "export", "--to", str(path))

    assert (result.exit_code, result.stderr) == (0, "")
    assert f"3 keys with 4 versions, sealed to {IDENTITY.recipient}" in result.stdout
    assert path.read_bytes() == bundle.encode(WHOLE)


def test_an_incomplete_bundle_says_so(popsigner: Popsigner, tmp_path: Path) -> None:
    serve(popsigner.pop, uncovered=(UNCOVERED,))
    path = tmp_path / "recovery.bundle"

    result = popsigner("recovery", "export", "--to", str(path), "--json")

    assert result.exit_code == 9
    assert json.loads(result.stdout)["uncovered"] == [UNCOVERED.hex()]
    assert UNCOVERED.hex() in result.stderr
    assert bundle.read(path).uncovered == (UNCOVERED,)


def test_nothing_is_written_over_and_nothing_asked_for_it(popsigner: Popsigner, tmp_path: Path) -> None:
    serve(popsigner.pop)
    path = tmp_path / "recovery.bundle"
    path.symlink_to(tmp_path / "nowhere")

    assert popsigner("recovery", "export", "--to", str(path)).exit_code == 2
    assert not popsigner.pop.seen


def test_a_change_of_the_recipient_on_the_way_leaves_no_file(popsigner: Popsigner, tmp_path: Path) -> None:
    async def pages(request: Any, context: Context) -> Message:
        if request.cursor:
            return await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_CURSOR", "changed")
        return recovery_pb2.ListRecoveryCopiesResponse(next_cursor="second", recipient=IDENTITY.recipient)

    popsigner.pop.on("RecoveryService/ListRecoveryCopies", pages)

    assert popsigner("recovery", "export", "--to", str(tmp_path / "b")).exit_code == 1
    assert not (tmp_path / "b").exists()


# -- opening, where no POP is: the scripted one must see nothing


@pytest.fixture
def offline(popsigner: Popsigner, tmp_path: Path) -> Popsigner:
    bundle.write(tmp_path / "recovery.bundle", WHOLE)
    popsigner.environment |= {"POPSIGNER_ENDPOINT": "127.0.0.1:1", "POPSIGNER_API_KEY_FILE": None}
    return popsigner


def opened(popsigner: Popsigner, tmp_path: Path, *arguments: str, stdin: bytes | None = None) -> Any:
    return popsigner("recovery", "open", str(tmp_path / "recovery.bundle"), *arguments, stdin=stdin)


def test_private_keys_are_written_under_their_names(offline: Popsigner, identity: str, tmp_path: Path) -> None:
    arguments = ["--identity", identity, "--to", str(tmp_path / "keys"), "--format", "hex", "--json"]
    result = opened(offline, tmp_path, *arguments)

    assert result.exit_code == 0, result.output
    found = {
        path.relative_to(tmp_path / "keys"): bytes.fromhex(path.read_text())
        for path in (tmp_path / "keys").rglob("*.hex")
    }
    assert found == {
        Path("production/sequencer.v1.hex"): KEYS[0].scalars[0],
        Path("production/sequencer.hex"): KEYS[0].scalars[1],
        Path("staging/bridge.hex"): KEYS[1].scalars[0],
        Path("staging/sequencer.hex"): KEYS[2].scalars[0],
    }
    told = {(each["key"], each["version"]): each for each in json.loads(result.stdout)["keys"]}
    assert told["staging/bridge", 1]["address"].startswith("osmo1")
    assert {each["outcome"] for each in told.values()} == {"RECOVERED"}
    assert all(each["verified"] for each in told.values())
    # Again: nothing is written over.
    again = json.loads(opened(offline, tmp_path, *arguments).stdout)["keys"]
    assert {each["outcome"] for each in again} == {"PRESENT"}
    assert not offline.pop.seen


def test_a_passphrase_comes_from_stdin(offline: Popsigner, identity: str, tmp_path: Path) -> None:
    result = opened(
        offline,
        tmp_path,
        *("--identity", identity, "--to", str(tmp_path / "keys"), "--format", "keystore", "--passphrase-stdin"),
        *("--key", "staging/bridge"),
        stdin=b"correct horse\n",
    )

    assert result.exit_code == 0, result.output
    (path,) = (tmp_path / "keys").rglob("*.json")
    with keystore.read(path.read_bytes(), b"correct horse") as secret:
        assert bytes(secret.scalar) == KEYS[1].scalars[0]


@pytest.mark.parametrize("named", ["staging/bridge", KEYS[1].id, KEYS[1].public_keys[0].hex()])
def test_one_key_is_chosen_by_any_of_its_names(offline: Popsigner, identity: str, tmp_path: Path, named: str) -> None:
    found = json.loads(opened(offline, tmp_path, "--identity", identity, "--key", named, "--json").stdout)["keys"]

    assert [(each["key"], each["outcome"], each["place"]) for each in found] == [("staging/bridge", "OPENED", "")]


def test_a_key_that_is_not_there_is_told(offline: Popsigner, identity: str, tmp_path: Path) -> None:
    result = opened(offline, tmp_path, "--identity", identity, "--key", "production/nobody", "--key", "staging/bridge")

    assert result.exit_code == 9
    assert "production/nobody" in result.stderr


def test_an_identity_may_come_from_stdin(offline: Popsigner, tmp_path: Path) -> None:
    assert opened(offline, tmp_path, "--identity", "-", stdin=IDENTITY.file).exit_code == 0


def test_another_identity_opens_nothing(offline: Popsigner, tmp_path: Path) -> None:
    result = opened(offline, tmp_path, "--identity", "-", stdin=OTHER.file)

    assert result.exit_code == 1
    assert IDENTITY.recipient in result.stderr
    assert str(OTHER.made) not in result.output


@pytest.mark.parametrize(
    "wrong",
    [
        ["--to", "keys"],
        ["--format", "hex"],
        ["--passphrase-stdin"],
        ["--to", "keys", "--format", "hex", "--passphrase-stdin"],
    ],
)
def test_options_that_do_not_fit_are_told(offline: Popsigner, identity: str, tmp_path: Path, wrong: list[str]) -> None:
    assert opened(offline, tmp_path, "--identity", identity, *wrong).exit_code == 2


def test_a_damaged_entry_is_named_and_the_others_are_written(offline: Popsigner, identity: str, tmp_path: Path) -> None:
    path = tmp_path / "recovery.bundle"
    lines = path.read_bytes().splitlines(keepends=True)
    hurt = next(number for number, line in enumerate(lines) if KEYS[1].public_keys[0].hex().encode() in line)
    told = json.loads(lines[hurt])
    ciphertext = told["versions"][0]["ciphertext"]
    told["versions"][0]["ciphertext"] = (
        ciphertext[:-8] + ("AAAA" if ciphertext[-8:-4] != "AAAA" else "BBBB") + ciphertext[-4:]
    )
    lines[hurt] = json.dumps(told).encode() + b"\n"
    path.write_bytes(b"".join(lines))

    result = opened(offline, tmp_path, "--identity", identity, "--to", str(tmp_path / "keys"), "--format", "hex")

    assert result.exit_code == 9
    assert KEYS[1].public_keys[0].hex() in result.stdout + result.stderr
    assert sorted(str(each.relative_to(tmp_path / "keys")) for each in (tmp_path / "keys").rglob("*.hex")) == [
        "production/sequencer.hex",
        "production/sequencer.v1.hex",
        "staging/sequencer.hex",
    ]


def test_a_key_whose_label_is_lost_goes_by_its_id(offline: Popsigner, identity: str, tmp_path: Path) -> None:
    (tmp_path / "recovery.bundle").unlink()
    key = SealedKey("sequencer")
    entry = key.entry(IDENTITY)
    lost = bundle.Entry(label=OTHER.seal(key.label()), versions=entry.versions)
    bundle.write(
        tmp_path / "recovery.bundle", bundle.Bundle(recipient=IDENTITY.recipient, entries=(lost,), uncovered=())
    )

    result = opened(offline, tmp_path, "--identity", identity, "--to", str(tmp_path / "keys"), "--format", "hex")

    assert result.exit_code == 9
    path = tmp_path / "keys" / "unnamed" / f"{key.id}.hex"
    assert bytes.fromhex(path.read_text()) == key.scalars[0]


def test_one_keyring_has_one_entry_of_a_name(offline: Popsigner, identity: str, tmp_path: Path) -> None:
    arguments = ["--identity", identity, "--to", str(tmp_path / "home"), "--format", "cosmos-test", "--json"]
    result = opened(offline, tmp_path, *arguments)

    assert result.exit_code == 9
    # The second `sequencer`, of another namespace, is told; the other keys are there.
    (failed,) = [each for each in json.loads(result.stdout)["keys"] if each["error"]]
    assert failed["key"].endswith("/sequencer")
    assert "holds another key" in failed["error"]["message"]


# -- what owners are told


def test_owners_hear_what_waits_when_they_say_who_they_are(person: Person) -> None:
    sentence = "user_2 asked for another recovery recipient; any owner can stop it with `popsigner recovery cancel`."
    me = auth_pb2.WhoamiResponse()
    me.CopyFrom(ME)
    me.announcements.extend([sentence, "\x1b[31mred"])
    person.logged_in()
    person.answer("AuthService/Whoami", me)

    result = person.command()("whoami")

    assert f"NOTE: {sentence}\n" in result.stderr
    assert "\x1b" not in result.output
    assert sentence not in result.stdout
    shown = person.command()("whoami", "--json")
    assert json.loads(shown.stdout)["announcements"][0] == sentence
    assert shown.stderr == ""
