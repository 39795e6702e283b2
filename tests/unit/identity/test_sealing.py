"""Sealed values open in their own row, with their own key, unchanged; otherwise not at all."""

import pytest

from popsigner_server.domain.ids import new_id
from popsigner_server.identity.sealing import Sealing, Unsealable, read_secret

KEY = "ab" * 32
ROW = new_id()


def test_a_secret_comes_back_from_its_row() -> None:
    sealed = Sealing.of(KEY).seal(b"a secret", table="token_keys", row=ROW)
    assert Sealing.of(KEY.upper()).open(sealed, table="token_keys", row=ROW) == b"a secret"
    assert b"a secret" not in sealed


def test_the_same_secret_is_sealed_differently_each_time() -> None:
    sealing = Sealing.of(KEY)
    assert len({sealing.seal(b"", table="t", row=ROW) for _ in range(20)}) == 20


@pytest.mark.parametrize(("table", "row"), [("identity_providers", ROW), ("token_keys", new_id())])
def test_a_value_that_was_moved_does_not_open(table: str, row: object) -> None:
    sealed = Sealing.of(KEY).seal(b"a secret", table="token_keys", row=ROW)
    with pytest.raises(Unsealable):
        Sealing.of(KEY).open(sealed, table=table, row=row)  # type: ignore[arg-type]


def test_another_key_does_not_open_it() -> None:
    sealed = Sealing.of(KEY).seal(b"a secret", table="token_keys", row=ROW)
    with pytest.raises(Unsealable):
        Sealing.of("cd" * 32).open(sealed, table="token_keys", row=ROW)


def test_no_bit_of_it_can_be_changed_and_no_end_be_cut() -> None:
    sealing = Sealing.of(KEY)
    sealed = sealing.seal(b"a secret", table="token_keys", row=ROW)
    changed = [bytes([*sealed[:n], sealed[n] ^ 1, *sealed[n + 1 :]]) for n in range(len(sealed))]
    for wrong in [*changed, *(sealed[:n] for n in range(len(sealed))), sealed + b"\0"]:
        with pytest.raises(Unsealable):
            sealing.open(wrong, table="token_keys", row=ROW)


@pytest.mark.parametrize("text", ["", "ab" * 31, "ab" * 33, "zz" * 32, "ab" * 32 + "\n", " " + "ab" * 32, "٣" * 64])
def test_a_key_file_of_anything_else_is_refused_in_one_sentence_without_its_content(text: str) -> None:
    with pytest.raises(ValueError, match="POPSIGNER_X_FILE must hold exactly 64 hexadecimal digits") as refused:
        read_secret(text, "POPSIGNER_X_FILE")
    assert not text or text not in str(refused.value)


def test_the_key_is_in_no_representation() -> None:
    assert KEY not in repr(Sealing.of(KEY))
    assert not hasattr(Sealing.of(KEY), "__dict__")
