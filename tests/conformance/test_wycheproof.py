"""Project Wycheproof's cases for secp256k1 as Bitcoin uses it, through Verify of a running POP."""

import asyncio

from popsigner_server.gen.popsigner.v1 import sign_pb2
from tests.integration.pop.wire import Wire
from tests.support import wycheproof

AT_ONCE = 32


async def test_verify_judges_all_463_cases_rightly(owner: Wire) -> None:
    cases = list(wycheproof.cases())
    places = asyncio.Semaphore(AT_ONCE)

    async def is_valid(case: wycheproof.Case) -> bool:
        request = sign_pb2.VerifyRequest(
            public_key=case.public_key.hex(),
            data=case.message,
            signature=case.signature,
            hash=sign_pb2.SHA256,
            format=sign_pb2.DER,
        )
        async with places:
            return bool((await owner(request)).valid)

    verdicts = await asyncio.gather(*map(is_valid, cases))

    wrong = [
        f"{case.number}: {case.comment}" for case, valid in zip(cases, verdicts, strict=True) if valid != case.valid
    ]
    assert wrong == []
    assert len(cases) == 463
    assert {case.valid for case in cases} == {True, False}
    assert {len(case.public_key) for case in cases} == {65}
