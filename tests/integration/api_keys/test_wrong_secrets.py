"""Wrong secrets over a real database: refused by their check, in memory, with next to no query."""

from datetime import timedelta

import pytest

from popsigner_server import errors
from popsigner_server.identity.hashing import check_of, new_secret
from popsigner_server.identity.verification import RECORD_REMEMBERED, SECOND_LOOK
from tests.integration.api_keys.conftest import Office, secret_of, wish, with_secret
from tests.support.organizations import Organization


async def test_a_flood_of_wrong_secrets_runs_no_argon2id_and_few_queries(office: Office, mine: Organization) -> None:
    texts = [(await office.api_keys.create(mine.caller, wish()))[1] for _ in range(3)]
    seconds, rate = 6, 200
    for number in range(seconds * rate):
        office.counts.now += 1 / rate
        with pytest.raises(errors.CredentialsInvalid):
            await office.verifier.principal(with_secret(texts[number % 3], new_secret()))
    assert office.counts.argon2 == 0
    assert office.counts.loads <= 3 * (seconds / RECORD_REMEMBERED + 1) + seconds / SECOND_LOOK + 1
    for text in texts:
        await office.verifier.principal(text)
    assert office.counts.argon2 == 3


async def test_a_key_of_before_is_as_good_as_a_new_one_after_its_first_use(office: Office, mine: Organization) -> None:
    made, text = await office.api_keys.create(mine.caller, wish())
    await office.change(made.id, key_check=None)
    with pytest.raises(errors.CredentialsInvalid):
        await office.verifier.principal(with_secret(text, new_secret()))
    assert office.counts.argon2 == 1
    await office.verifier.principal(text)
    assert (await office.row(made.id))["key_check"] == check_of(secret_of(text))
    argon2 = office.counts.argon2
    for _ in range(50):
        with pytest.raises(errors.CredentialsInvalid):
            await office.verifier.principal(with_secret(text, new_secret()))
    assert office.counts.argon2 == argon2


async def test_an_old_secret_that_never_got_its_check_costs_nothing_once_its_time_is_over(
    office: Office, mine: Organization
) -> None:
    made, old = await office.api_keys.create(mine.caller, wish())
    await office.change(made.id, key_check=None)
    await office.api_keys.rotate(mine.caller, made.id, overlap=timedelta(0))
    for text in (old, with_secret(old, new_secret())):
        with pytest.raises(errors.CredentialsInvalid):
            await office.verifier.principal(text)
    assert office.counts.argon2 == 0


async def test_a_secret_with_the_right_check_by_chance_is_still_wrong(office: Office, mine: Organization) -> None:
    made, text = await office.api_keys.create(mine.caller, wish())
    other = new_secret()
    await office.change(made.id, key_check=check_of(other))
    with pytest.raises(errors.CredentialsInvalid):
        await office.verifier.principal(with_secret(text, other))
    assert office.counts.argon2 == 1
