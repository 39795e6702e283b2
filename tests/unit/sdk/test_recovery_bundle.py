"""The recovery bundle: what is written is read again, damage is named and costs nothing else, and it says nothing."""

import base64
import json
import os
import re
import stat
from dataclasses import replace
from pathlib import Path

import pyrage  # type: ignore[import-untyped]  # publishes no types
import pytest
from hypothesis import given
from hypothesis import strategies as st

from popsigner.keyfiles import (
    DamagedFile,
    EntryExists,
    EntryMissing,
    FileUnusable,
    KeyFileError,
    NotThisFormat,
    UnsupportedKey,
    UnsupportedParameters,
    WrongPassphrase,
)
from popsigner.recovery import Bundle, OpenedKey, bundle, opening

from .sealed import Identity, SealedKey, bundle_of

IDENTITY = Identity()
KEYS = (
    SealedKey("sequencer"),
    SealedKey("bridge", "staging", "osmo", scalars=(os.urandom(32), os.urandom(32), os.urandom(32))),
    SealedKey("blob-worker-1"),
)
WHOLE = bundle_of(IDENTITY, *KEYS, uncovered=(b"\x02" * 33,))
CONTENT = bundle.encode(WHOLE)


def keys_in(content: bytes) -> tuple[Bundle, list[OpenedKey]]:
    found = bundle.decode(content)
    return found, [opening.open_entry(entry, IDENTITY.file) for entry in found.entries]


def scalars_in(opened: list[OpenedKey]) -> set[bytes]:
    return {bytes(version.secret.scalar) for key in opened for version in key.versions}


def test_every_private_key_comes_back_under_its_name() -> None:
    found, opened = keys_in(CONTENT)

    assert not found.damage
    assert found.recipient == IDENTITY.recipient
    assert found.uncovered == (b"\x02" * 33,)
    expected = {
        (key.id, key.namespace, key.name, key.address_prefix, number, scalar)
        for key in KEYS
        for number, scalar in enumerate(key.scalars, start=1)
    }
    assert expected == {
        (label.id, label.namespace, label.name, label.address_prefix, version.version, bytes(version.secret.scalar))
        for key in opened
        if (label := key.label)
        for version in key.versions
    }
    assert not [key.problems for key in opened if key.problems]


def test_age_alone_opens_it_too() -> None:
    """Without anything of POPSigner: JSON, base64, age."""
    found = set()
    for line in CONTENT.decode().splitlines():
        for version in json.loads(line).get("versions", []):
            copy = json.loads(pyrage.decrypt(base64.b64decode(version["ciphertext"]), [IDENTITY.made]))
            found.add(bytes.fromhex(copy["private_key"]))

    assert found == {scalar for key in KEYS for scalar in key.scalars}


def test_the_order_of_the_keys_says_nothing() -> None:
    other = replace(WHOLE, entries=tuple(reversed(WHOLE.entries)))

    assert bundle.encode(other) == CONTENT
    firsts = [json.loads(line)["versions"][0]["public_key"] for line in CONTENT.splitlines()[1:-2]]
    assert firsts == sorted(firsts)


def test_it_can_be_published() -> None:
    """Names, namespaces, ids and addresses are in no spelling in it."""
    for key in KEYS:
        facts = [version.secret.facts for version in opening.open_entry(key.entry(IDENTITY), IDENTITY.file).versions]
        spellings = [
            key.name,
            key.namespace,
            key.address_prefix,
            key.id,
            key.id.removeprefix("key_"),
            key.uuid.hex,
            str(key.uuid),
            *(each.address(key.address_prefix) for each in facts),
            *(each.eth_address for each in facts),
            *(each.account.hex() for each in facts),
            *(scalar.hex() for scalar in key.scalars),
        ]
        for spelling in spellings:
            for written in (spelling, base64.b64encode(spelling.encode()).decode().rstrip("=")[:-1]):
                # A short word stands in so much base64 by chance.
                place = CONTENT if len(written) >= 12 else re.sub(rb"[A-Za-z0-9+/=]{40,}", b"", CONTENT)
                assert written.lower().encode() not in place.lower(), written
    assert str(IDENTITY.made).encode() not in CONTENT


@pytest.mark.parametrize("end", range(0, len(CONTENT), 97))
def test_what_was_cut_off_is_told_and_the_rest_opens(end: int) -> None:
    cut = CONTENT[:end]
    if cut.count(b"\n") == 0:
        # Not even the header is whole.
        with pytest.raises(NotThisFormat):
            bundle.decode(cut)
        return
    found, opened = keys_in(cut)

    assert found.damage == ("the end is missing: the file was cut off, and keys may be missing",)
    assert len(opened) == min(cut.count(b"\n") - 1, len(KEYS))
    assert scalars_in(opened) <= {scalar for key in KEYS for scalar in key.scalars}


@given(st.integers(0, len(CONTENT) - 1), st.integers(0, 7))
def test_a_flipped_bit_is_told_and_costs_one_key_at_most(place: int, bit: int) -> None:
    changed = bytearray(CONTENT)
    changed[place] ^= 1 << bit
    line = CONTENT[:place].count(b"\n")
    try:
        found, opened = keys_in(bytes(changed))
    except (NotThisFormat, UnsupportedParameters):
        assert line == 0
        return

    assert found.damage
    lost = {scalar for key in KEYS for scalar in key.scalars} - scalars_in(opened)
    # A new line break, or one that is gone, can touch the line after it, and no other.
    hurt = {
        entry.versions[0].public_key for entry in bundle.decode(CONTENT).entries if entry.line in (line + 1, line + 2)
    }
    assert lost <= {scalar for key in KEYS if key.public_keys[0] in hurt for scalar in key.scalars}


def test_each_damaged_field_is_named() -> None:
    entry = KEYS[1].entry(IDENTITY)
    lines = bundle.encode(replace(WHOLE, entries=(entry,))).splitlines()
    told = json.loads(lines[1])
    named = KEYS[1].public_keys[0].hex()

    def damage(**changed: object) -> tuple[str, ...]:
        versions = changed.pop("versions", told["versions"])
        line = json.dumps(told | {"versions": versions} | changed, sort_keys=True, separators=(",", ":")).encode()
        return bundle.decode(b"\n".join([lines[0], line, *lines[2:], b""])).damage

    assert damage() == ()
    assert any(named in sentence for sentence in damage(label="not base64!"))
    assert any(named in sentence for sentence in damage(label=7))
    assert any(named in sentence for sentence in damage(more=1))
    assert any("none of them" in sentence for sentence in damage(versions=[]))
    first, *rest = told["versions"]
    assert any(named in each for each in damage(versions=[first | {"ciphertext": "?"}, *rest]))
    assert damage(versions=[first | {"public_key": "05" + named[2:]}, *rest])


def test_a_damaged_version_costs_the_other_versions_nothing() -> None:
    entry = KEYS[1].entry(IDENTITY)
    lines = bundle.encode(replace(WHOLE, entries=(entry,))).splitlines()
    told = json.loads(lines[1])
    told["versions"][1]["ciphertext"] = "?"
    found, (opened,) = keys_in(b"\n".join([lines[0], json.dumps(told).encode(), *lines[2:], b""]))

    assert [version.version for version in opened.versions] == [1, 3]
    assert len(found.damage) == 2  # The line, and the SHA-256.


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        (b'{"keys":4,"sha256":"%s"}\n', "counts another number"),
        (b'{"keys":3,"sha256":"' + b"0" * 64 + b'"}\n', "the SHA-256 in the end"),
    ],
)
def test_a_wrong_end_is_told(end: bytes, sentence: str) -> None:
    body = b"".join(CONTENT.splitlines(keepends=True)[:-1])

    (damage,) = bundle.decode(body + end).damage

    assert sentence in damage


def test_what_is_put_behind_the_end_is_told() -> None:
    line = CONTENT.splitlines(keepends=True)[1]

    assert bundle.decode(CONTENT + line).damage == ("line 7 comes after the end",)
    assert bundle.decode(CONTENT + b"more").damage == ("the file goes on after its end",)


def test_a_later_version_is_not_read() -> None:
    with pytest.raises(UnsupportedParameters):
        bundle.decode(CONTENT.replace(b'"version":1}', b'"version":2}', 1))


@given(st.binary(max_size=200))
def test_other_bytes_are_no_bundle(content: bytes) -> None:
    with pytest.raises(KeyFileError):
        bundle.decode(content)


@given(st.binary(max_size=200))
def test_other_bytes_behind_the_header_are_damage(content: bytes) -> None:
    header = CONTENT.splitlines(keepends=True)[0]

    assert bundle.decode(header + content).damage


# -- opening


def opened_with(copy: bytes | None = None, label: bytes | None = None) -> OpenedKey:
    key = KEYS[0]
    entry = key.entry(IDENTITY)
    if copy is not None:
        entry = replace(entry, versions=(replace(entry.versions[0], ciphertext=IDENTITY.seal(copy)),))
    if label is not None:
        entry = replace(entry, label=IDENTITY.seal(label))
    return opening.open_entry(entry, IDENTITY.file)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"private_key": "00" * 32}, "1 to n-1"),
        ({"private_key": "ff" * 32}, "1 to n-1"),
        ({"private_key": "11" * 32}, "another private key"),
        ({"private_key": "11" * 31}, "not a copy"),
        ({"public_key": "02" + "11" * 32}, "another private key"),
        ({"curve": "ed25519"}, "not a copy"),
        ({"version": 0}, "not a copy"),
        ({"version": 100}, "not a copy"),
        ({"name": "../../etc/passwd"}, "not a copy"),
        ({"more": 1}, "not a copy"),
    ],
)
def test_a_copy_that_is_not_of_its_public_key_is_refused(changed: dict[str, object], sentence: str) -> None:
    opened = opened_with(copy=KEYS[0].copy(1, **changed))

    assert not opened.versions
    assert sentence in opened.problems[0]
    assert "11" * 31 not in str(opened.problems).replace(KEYS[0].public_keys[0].hex(), "")


@pytest.mark.parametrize(
    "label",
    [
        KEYS[0].label(name="../../../root/.ssh/authorized_keys"),
        KEYS[0].label(name="\x1b[2J"),
        KEYS[0].label(name=""),
        KEYS[0].label(name=["sequencer"]),
        KEYS[0].label(namespace=".."),
        KEYS[0].label(address_prefix="Celestia"),
        KEYS[0].label(id="key_1"),
        KEYS[0].label(more=1),
        KEYS[1].label(),
        b"[]",
        b"\xff",
    ],
)
def test_a_label_that_no_pop_writes_names_nothing(label: bytes) -> None:
    opened = opened_with(label=label)

    assert opened.label is None
    assert opened.key_id == KEYS[0].id
    # The private key is what counts.
    assert bytes(opened.versions[0].secret.scalar) == KEYS[0].scalars[0]
    assert opened.problems


def test_another_identity_opens_nothing_and_is_told_first() -> None:
    with pytest.raises(WrongPassphrase, match=IDENTITY.recipient):
        next(opening.opened(WHOLE, Identity().file))
    # The right one among others does.
    both = Identity().file + IDENTITY.file
    assert len(list(opening.opened(WHOLE, both))) == len(KEYS)


@pytest.mark.parametrize(
    ("identity", "kind"),
    [
        (b"", NotThisFormat),
        (IDENTITY.recipient.encode(), UnsupportedKey),
        (b"AGE-SECRET-KEY-1QQ", DamagedFile),
    ],
)
def test_a_file_that_is_no_identity_is_told_first(identity: bytes, kind: type[KeyFileError]) -> None:
    with pytest.raises(kind):
        next(opening.opened(WHOLE, identity))


# -- files


def test_a_bundle_is_written_whole_and_never_over_another_file(tmp_path: Path) -> None:
    path = tmp_path / "recovery.bundle"
    bundle.write(path, WHOLE)

    assert path.read_bytes() == CONTENT
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert bundle.read(path).entries == bundle.decode(CONTENT).entries
    with pytest.raises(EntryExists):
        bundle.write(path, replace(WHOLE, entries=()))
    assert path.read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["recovery.bundle"]


def test_a_place_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(EntryMissing):
        bundle.read(tmp_path / "nothing")
    with pytest.raises(FileUnusable):
        bundle.read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileUnusable):
        bundle.read(tmp_path / "pipe")
