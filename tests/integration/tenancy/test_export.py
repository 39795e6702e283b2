"""The archive of a person's data: whole, theirs alone, and never in memory at once."""

import io
import json
import zipfile
from typing import Any

import pytest
from sqlalchemy import text

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, show
from popsigner_server.domain.principals import Role
from popsigner_server.tenancy import export
from popsigner_server.tenancy.export import PIECE
from tests.integration.tenancy.house import ADDRESS, PROGRAM, House, Somebody
from tests.integration.tenancy.test_invitations import invite


async def _archive(house: House, who: Somebody) -> zipfile.ZipFile:
    pieces = [piece async for piece in house.exports.archive(who.person)]
    assert all(0 < len(piece) <= PIECE for piece in pieces)
    archive = zipfile.ZipFile(io.BytesIO(b"".join(pieces)))
    assert archive.testzip() is None
    return archive


def _read(archive: zipfile.ZipFile, name: str) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads(archive.read(name))
    return content


async def test_the_archive_holds_what_is_known_of_the_person(house: House) -> None:
    ours, theirs = await house.organization(), await house.organization()
    me, other = await house.person(ours, Role.ADMIN), await house.person(ours, Role.OWNER)
    token = await invite(house, theirs.caller, me.row.email)
    await house.invitations.accept(me.person, token)
    await house.members.update(me.caller, me.id, role=Role.OPERATOR)
    await house.members.remove(me.in_(theirs.id, Role.VIEWER), me.id, revoke_api_keys=False)
    await house.organizations.update(other.caller, name="Renamed by somebody else")

    archive = await _archive(house, me)

    names = ["profile.json", "memberships.json", "sessions.json", "invitations.json", "audit.json"]
    assert archive.namelist() == ["README.txt", *names]
    assert all(name in archive.read("README.txt").decode() for name in names)
    (profile,) = _read(archive, "profile.json")
    assert profile["id"] == show(Prefix.USER, me.id)
    assert [profile[key] for key in ("email", "name", "subject")] == [me.row.email, me.row.name, me.row.subject]
    assert profile["identity_provider_issuer"].startswith("https://")
    (membership,) = _read(archive, "memberships.json")
    assert (membership["organization_id"], membership["role"]) == (show(Prefix.ORGANIZATION, ours.id), "OPERATOR")
    (session,) = _read(archive, "sessions.json")
    assert (session["ip_address"], session["user_agent"]) == (ADDRESS, PROGRAM)
    (invitation,) = _read(archive, "invitations.json")
    assert (invitation["email"], invitation["role"]) == (me.row.email, "VIEWER")
    assert invitation["accepted_at"] is not None
    rows = {row["event"]: row for row in _read(archive, "audit.json")}
    assert set(rows) == {"member.joined", "member.updated", "member.left"}
    assert rows["member.updated"]["metadata"] == {"role_before": "ADMIN", "role_after": "OPERATOR"}
    assert rows["member.updated"]["ip_address"] == ADDRESS
    # What concerns an organization that the person left is the organization's; that the person did it is theirs.
    assert rows["member.left"]["metadata"] == {}
    everything = b"".join(archive.read(name) for name in archive.namelist()).decode()
    assert other.row.email not in everything
    assert token not in everything


async def test_of_people_who_belong_nowhere_there_is_little_to_tell(house: House) -> None:
    me = await house.person(await house.organization(), None)

    archive = await _archive(house, me)

    for name in ("memberships.json", "invitations.json", "audit.json"):
        assert _read(archive, name) == []
    assert len(_read(archive, "profile.json")) == 1


async def test_a_long_trail_is_written_as_it_is_read(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, page = 3000, 100
    monkeypatch.setattr(export, "PAGE", page)
    ours, theirs = await house.organization(), await house.organization()
    me = await house.person(ours, Role.ADMIN)
    await house.execute(
        text(
            "INSERT INTO audit_logs (org_id, seq, id, event, actor_type, actor_id, user_agent)"
            " SELECT (ARRAY[:ours, :theirs]::uuid[])[1 + n % 2], n, gen_random_uuid(), 'key.signed', 'user', :me,"
            " md5(n || 'a') || md5(n || 'b') || md5(n || 'c') || md5(n || 'd') || md5(n || 'e') || md5(n || 'f')"
            " FROM generate_series(1, :rows) n"
        ).bindparams(ours=ours.id, theirs=theirs.id, me=me.id, rows=rows)
    )
    waiting = []
    pieces = export._Outbox.pieces

    def watched(outbox: export._Outbox, *, least: int = PIECE) -> Any:
        waiting.append(len(outbox._waiting))
        return pieces(outbox, least=least)

    monkeypatch.setattr(export._Outbox, "pieces", watched)

    archive = await _archive(house, me)

    found = _read(archive, "audit.json")
    places = [(row["organization_id"], row["sequence"]) for row in found]
    assert len(places) == len(set(places)) == rows
    # A page and the piece that has not come together yet.
    assert max(waiting) < PIECE + page * 1000
    assert sum(waiting) > 5 * PIECE


async def test_a_person_reads_one_archive_at_a_time_and_holds_up_nobody_else(house: House) -> None:
    """A reader that never ends holds rows in memory; it must not be as many as one person can open streams."""
    ours = await house.organization()
    me, somebody = await house.person(ours, Role.VIEWER), await house.person(ours, Role.VIEWER)
    reading = house.exports.archive(me.person)
    await anext(reading)
    for _ in range(2):
        with pytest.raises(errors.RateLimited) as refused:
            await _archive(house, me)
        assert refused.value.retry_after
    await _archive(house, somebody)
    # Who goes away in the middle of it, or fails, may begin again.
    await reading.aclose()
    await _archive(house, me)
    await _archive(house, me)
