"""Mnemonics: what CosmJS derives is what popsigner.keyfiles reads, for a hundred mnemonics that CosmJS made.

Once with recorded answers, so that the proof needs no network, and once with fresh ones. Recording:

.venv/bin/python -m tests.conformance.keyfiles.test_cosmjs > tests/conformance/keyfiles/cosmjs_answers.json
"""

import itertools
import json
from pathlib import Path
from typing import Any

from popsigner.keyfiles import mnemonic
from tests.conformance.keyfiles.conftest import Answers, Derive, derivation

RECORDED = Path(__file__).with_name("cosmjs_answers.json")

PASSPHRASES = ("", "TREZOR", "pässwörd", "\ufb01 1\uff12")
PATHS = (
    mnemonic.COSMOS_PATH,
    mnemonic.ETHEREUM_PATH,
    "m/44'/118'/7'/1/2147483647",
    "m/44'/60'/0'/0/3",
    "m/0'",
    "m/1/2",
)
PREFIXES = ("celestia", "cosmos", "osmo")


def hundred() -> list[dict[str, Any]]:
    """Requests for mnemonics of every length, with every sort of passphrase and path."""
    cases = zip(
        itertools.cycle(mnemonic.LENGTHS),
        itertools.cycle(PASSPHRASES),
        itertools.cycle(PATHS),
        itertools.cycle(PREFIXES),
        range(100),
        strict=False,
    )
    return [
        {"words": words, "passphrase": passphrase, "path": path, "prefix": prefix}
        for words, passphrase, path, prefix, _ in cases
    ]


def assert_same(requests: list[dict[str, Any]], answers: Answers) -> None:
    assert len(answers) == len(requests) == 100
    assert len({answer["private_key"] for answer in answers}) == 100
    for request, answer in zip(requests, answers, strict=True):
        content = answer["mnemonic"].encode()
        with mnemonic.read(content, passphrase=request["passphrase"], path=request["path"]) as secret:
            assert secret.scalar.hex() == answer["private_key"]
        assert secret.facts.public_key.hex() == answer["public_key"]
        assert secret.facts.address(request["prefix"]) == answer["address"]


def test_a_hundred_recorded_mnemonics_of_cosmjs_give_the_same_keys_and_addresses() -> None:
    assert_same(hundred(), json.loads(RECORDED.read_text()))


def test_a_hundred_fresh_mnemonics_of_cosmjs_give_the_same_keys_and_addresses(cosmjs: Derive) -> None:
    assert_same(hundred(), cosmjs(hundred()))


def test_white_space_and_capital_letters_mean_the_same_mnemonic(cosmjs: Derive) -> None:
    request = {"words": 12, "passphrase": "", "path": mnemonic.COSMOS_PATH, "prefix": "celestia"}
    (answer,) = cosmjs([request])
    spread = "\n  ".join(answer["mnemonic"].title().split()) + "\r\n"
    with mnemonic.read(spread.encode()) as secret:
        assert secret.scalar.hex() == answer["private_key"]


if __name__ == "__main__":
    print(json.dumps(derivation()(hundred()), indent=0))
