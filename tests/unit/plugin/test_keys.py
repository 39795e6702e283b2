"""Keys: their rules, and the form in storage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popsigner_plugin.curve import SigningKey
from popsigner_plugin.errors import BadInput, Conflict
from popsigner_plugin.gen.popsigner.engine.v1.stored_pb2 import StoredKey
from popsigner_plugin.keys import Key, Version, checked_name, decoded, encoded, overwritten


def made(count: int = 1, **changes: bool) -> Key:
    versions = [
        Version(number=number, signer=SigningKey.generated(), created_at_ms=1_700_000_000_000 + number)
        for number in range(1, count + 1)
    ]
    rights = {"exportable": False, "deletion_allowed": False, "enabled": True} | changes
    return Key(versions=versions, min_signing_version=1, **rights)


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
    stored.layout = 2
    with pytest.raises(ValueError, match="layout 2"):
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
