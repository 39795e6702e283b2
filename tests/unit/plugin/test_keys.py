"""Keys: their rules, and the form in storage."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popsigner_plugin.curve import SigningKey
from popsigner_plugin.errors import BadInput, Conflict
from popsigner_plugin.gen.popsigner.engine.v1.stored_pb2 import StoredKey
from popsigner_plugin.keys import MAX_VERSIONS, Key, Version, buried, checked_name, decoded, encoded, overwritten


def made(count: int = 1, **changes: bool) -> Key:
    versions = [
        Version(number=number, signer=SigningKey.generated(), created_at_ms=1_700_000_000_000 + number)
        for number in range(1, count + 1)
    ]
    key = Key(versions=versions, min_signing_version=1, exportable=False, deletion_allowed=False, enabled=True)
    return replace(key, **changes)  # type: ignore[arg-type]  # flags alone


@given(st.booleans(), st.booleans(), st.booleans(), st.integers(1, 3))
def test_what_storage_keeps_is_what_comes_back(
    exportable: bool, deletion_allowed: bool, enabled: bool, count: int
) -> None:
    key = made(count, exportable=exportable, deletion_allowed=deletion_allowed, enabled=enabled)
    back = decoded(encoded(key))
    assert back is not None
    assert back.public_data() == key.public_data()
    assert [v.signer.scalar() for v in back.versions] == [v.signer.scalar() for v in key.versions]


def test_an_overwritten_key_holds_no_scalar_and_counts_as_gone() -> None:
    key = made(2)
    blob = overwritten(key)
    assert len(blob) == len(encoded(key))
    assert all(version.signer.scalar() not in blob for version in key.versions)
    assert decoded(blob) is None


def test_an_overwritten_key_holds_no_copy_either() -> None:
    key = made(3).sealed_to("age1x", lambda version: b"copy of %d" % version.number)
    blob = overwritten(key)
    assert len(blob) == len(encoded(key))
    assert b"copy" not in blob
    assert decoded(blob) is None
    assert buried(blob) == [version.signer.public_key for version in key.versions]


def test_copies_are_kept_and_left_out_for_signing() -> None:
    key = made(3).sealed_to("age1x", lambda version: b"copy of %d" % version.number)
    back = decoded(encoded(key))
    assert back is not None
    assert [version.sealed for version in back.versions] == [b"copy of 1", b"copy of 2", b"copy of 3"]
    assert back.recovery_recipient == "age1x"
    signing = decoded(encoded(key), copies=False)
    assert signing is not None
    assert [version.sealed for version in signing.versions] == [b""] * 3
    assert signing.public_data() == key.public_data()


def test_copies_for_the_same_recipient_are_made_once_and_for_another_anew() -> None:
    first = made(2).sealed_to("age1x", lambda version: b"x%d" % version.number)
    more = first.rotated(now_ms=5).sealed_to("age1x", lambda version: b"new%d" % version.number)
    assert [version.sealed for version in more.versions] == [b"x1", b"x2", b"new3"]
    other = more.sealed_to("age1y", lambda version: b"y%d" % version.number)
    assert [version.sealed for version in other.versions] == [b"y1", b"y2", b"y3"]
    assert other.without_copies() == replace(
        other, versions=tuple(replace(version, sealed=b"") for version in more.versions), recovery_recipient=""
    )


def test_a_key_without_copies_is_written_so_that_the_first_engine_can_read_it() -> None:
    assert StoredKey.FromString(encoded(made(2))).layout == 1
    assert StoredKey.FromString(encoded(made(2).sealed_to("age1x", lambda _: b"c"))).layout == 2


def test_a_key_that_the_first_engine_wrote_is_read() -> None:
    # v1.0.0 as it was released: layout 1, one version with scalar 1, exportable, min_signing_version 1.
    public_key = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    version = "0801" + "1220" + "00" * 31 + "01" + "1a21" + public_key + "2080d095ffbc31"
    blob = bytes.fromhex("0801" + "12%02x" % (len(version) // 2) + version + "1801" + "3001")
    key = decoded(blob)
    assert key is not None
    assert (key.latest.number, key.latest.created_at_ms) == (1, 1_700_000_000_000)
    assert key.latest.signer.public_key.hex() == public_key
    assert (key.exportable, key.enabled, key.deletion_allowed, key.min_signing_version) == (True, True, False, 1)
    assert encoded(key) == blob


def test_a_rotation_adds_one_version_and_changes_none() -> None:
    key = made(2)
    rotated = key.rotated(now_ms=7)
    assert rotated.versions[:2] == tuple(key.versions)
    assert (rotated.latest.number, rotated.latest.created_at_ms) == (3, 7)
    assert len({version.signer.public_key for version in rotated.versions}) == 3


def test_a_key_has_a_bounded_number_of_versions() -> None:
    key = made(MAX_VERSIONS - 1).rotated(now_ms=7)
    with pytest.raises(Conflict, match="VERSIONS_EXHAUSTED: A key has at most 64 versions"):
        key.rotated(now_ms=8)


def test_public_data_holds_no_scalar() -> None:
    key = made(2)
    for version in key.versions:
        assert version.signer.scalar().hex() not in str(key.public_data())


def test_a_scalar_beside_a_foreign_public_key_is_refused() -> None:
    stored = StoredKey.FromString(encoded(made()))
    stored.versions[0].public_key = SigningKey.generated().public_key
    with pytest.raises(ValueError, match="does not belong"):
        decoded(stored.SerializeToString())


def test_a_layout_of_a_later_engine_is_refused() -> None:
    stored = StoredKey.FromString(encoded(made()))
    stored.layout = 3
    with pytest.raises(ValueError, match="layout 3"):
        decoded(stored.SerializeToString())


@pytest.mark.parametrize("name", ["a", "A.b_c-1", "0" * 128])
def test_a_name_is_accepted(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "-a", "_a", "a b", "a\n", "ä", "0" * 129, "a/b", "a%2Fb"])
def test_a_strange_name_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="A key's name"):
        checked_name(name)


def unchanged(key: Key, **changes: bool | int) -> Key:
    nothing = {"exportable": None, "deletion_allowed": None, "enabled": None, "min_signing_version": None}
    return key.configured(**(nothing | changes))  # type: ignore[arg-type]  # one dictionary of two value types


def test_exportable_can_be_given_up_and_never_gained() -> None:
    key = made(exportable=True)
    kept = unchanged(key, exportable=True)
    assert kept.exportable
    lowered = unchanged(key, exportable=False)
    assert not lowered.exportable
    with pytest.raises(Conflict, match="cannot become exportable"):
        unchanged(lowered, exportable=True)


def test_versions_below_the_minimum_do_not_sign_and_still_verify() -> None:
    key = unchanged(made(3), min_signing_version=2)
    assert key.signing_version(1) is None
    assert key.version(1) is key.versions[0]
    assert key.signing_version(2) is key.versions[1]
    assert key.signing_version(0) is key.versions[2]
    assert key.signing_version(4) is None


@pytest.mark.parametrize("number", [0, 4])
def test_a_minimum_outside_the_versions_is_refused(number: int) -> None:
    with pytest.raises(BadInput, match="1 to 3"):
        unchanged(made(3), min_signing_version=number)


def test_what_is_not_given_stays() -> None:
    key = made(2, exportable=True, deletion_allowed=True, enabled=False)
    assert unchanged(key) == key
