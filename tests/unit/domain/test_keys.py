from collections.abc import Callable

import pytest

from popsigner_server.domain.keys import (
    KeyState,
    check_address_prefix,
    check_key_name,
    check_metadata,
    check_namespace_name,
)
from popsigner_server.gen.popsigner.v1 import key_pb2


@pytest.mark.parametrize("name", ["a", "0", "Z", "sequencer", "blob-worker_01.main", "a" * 100, "A..--__"])
def test_a_key_may_be_named_so(name: str) -> None:
    check_key_name(name)


@pytest.mark.parametrize("name", ["", ".a", "-a", "_a", "a" * 101, "a/b", "a b", "a\n", "\u00e9", "a\u0661", "a\x00"])
def test_a_key_may_not_be_named_so(name: str) -> None:
    with pytest.raises(ValueError, match="must be 1 to 100 characters"):
        check_key_name(name)


@pytest.mark.parametrize("name", ["a", "production", "eu-west-1", "a" * 63, "a-"])
def test_a_namespace_may_be_named_so(name: str) -> None:
    check_namespace_name(name)


@pytest.mark.parametrize("name", ["", "1a", "-a", "A", "aB", "a_b", "a.b", "a" * 64, "a\n", "a/b"])
def test_a_namespace_may_not_be_named_so(name: str) -> None:
    with pytest.raises(ValueError, match="must be 1 to 63 characters"):
        check_namespace_name(name)


@pytest.mark.parametrize("prefix", ["a", "celestia", "cosmos", "dym", "a1", "a" * 83])
def test_addresses_may_begin_so(prefix: str) -> None:
    check_address_prefix(prefix)


@pytest.mark.parametrize("prefix", ["", "1a", "Celestia", "a-b", "a" * 84, "a\n", "\u0430"])
def test_addresses_may_not_begin_so(prefix: str) -> None:
    with pytest.raises(ValueError, match="must be 1 to 83 characters"):
        check_address_prefix(prefix)


def test_metadata_at_its_limits_is_taken() -> None:
    check_metadata({})
    check_metadata({"n" * 63: "v" * 256, "empty": "", "\U0001f511" * 63: "\U0001f511" * 256})
    check_metadata({str(i): "" for i in range(64)})


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ({str(i): "" for i in range(65)}, "at most 64 entries"),
        ({"": "v"}, "names of 1 to 63"),
        ({"n" * 64: "v"}, "names of 1 to 63"),
        ({"n": "v" * 257}, "values of at most 256"),
        ({"n": "a\x00b"}, "NUL"),
        ({"a\x00b": "v"}, "NUL"),
    ],
)
def test_metadata_beyond_its_limits_is_refused(metadata: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_metadata(metadata)


@pytest.mark.parametrize("check", [check_key_name, check_namespace_name, check_address_prefix])
def test_a_refusal_is_one_sentence_that_follows_the_fields_name(check: Callable[[str], None]) -> None:
    with pytest.raises(ValueError, match=r"^must .*\.$"):
        check("")


def test_the_states_that_an_owner_sees_are_the_contracts() -> None:
    shown = {state.name: state.value for state in KeyState if state not in (KeyState.CREATING, KeyState.ABANDONED)}
    assert shown == {name: value for name, value in key_pb2.Key.State.items() if value != key_pb2.Key.STATE_UNSPECIFIED}


def test_the_states_that_only_the_catalogue_knows_are_not_in_the_contract() -> None:
    # 0 is the contract's "unspecified": a row in the making never becomes a message.
    assert KeyState.CREATING.value == key_pb2.Key.STATE_UNSPECIFIED
    assert KeyState.ABANDONED.value not in key_pb2.Key.State.values()
