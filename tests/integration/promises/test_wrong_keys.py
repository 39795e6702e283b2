"""Wrong keys cannot starve good ones: a flood of them costs no Argon2id and no memory, and no good call fails.

What it does to the latency of the good calls is a figure, not a test: `python -m tests.bench.wrong_keys` prints it.
"""

from tests.integration.promises.site import Tenant
from tests.support.load import Client, Load, Wire
from tests.support.pop import Pop
from tests.support.wrong_keys import argon2_runs, flood, server_process, signing_key, victims

WRONG_PER_SECOND = 200
WRONG = 2_000
GOOD_PAUSE = 0.05
# Argon2id takes 19 MiB a run, and a memory of wrong keys would grow by each of them.
GROWTH = 16 << 20


async def test_a_flood_of_wrong_keys_starves_nobody(trio: Pop, sockets: list[str], tenant: Tenant) -> None:
    async with Wire(sockets[0], trio.api_key) as theirs, Wire(sockets[0], tenant.api_key) as ours:
        known = await victims(theirs, 6)
        key_id = await signing_key(ours, "steady")
        load = Load(seconds=120)
        clients = [Client(ours.sign_one, keys=[key_id], messages=100_000, pause=GOOD_PAUSE) for _ in range(2)]
        load.start(*clients)
        # A little flood before the measured one, so that what a server keeps for its callers is there.
        assert await flood(sockets[0], known, per_second=WRONG_PER_SECOND, calls=300) == {"CREDENTIALS_INVALID": 300}
        runs, size = await argon2_runs(trio), server_process(trio).memory_info().rss

        ends = await flood(sockets[0], known, per_second=WRONG_PER_SECOND, calls=WRONG)

        grown = server_process(trio).memory_info().rss - size
        more = await argon2_runs(trio) - runs
        await load.stop()
    assert ends == {"CREDENTIALS_INVALID": WRONG}
    assert load.refused == []
    assert all(len(client.answered) > 1 for client in clients)
    # The good key's own.
    assert more <= 1
    assert grown < GROWTH
