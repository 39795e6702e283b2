"""The SDK and a real POP."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import ecdsa
import pytest
from ecdsa.util import sigdecode_string

from popsigner import (
    ApiKeyRevoked,
    AsyncClient,
    BatchTooLarge,
    Client,
    CredentialsInvalid,
    DataTooLarge,
    DigestLength,
    HashAlgorithm,
    Key,
    KeyDeleted,
    KeyNameTaken,
    KeyNotFound,
    KeyState,
    NamespaceNotEmpty,
    NamespaceNotFound,
    RequestIdReused,
    Retry,
    ScopeMissing,
    Signature,
    SignatureFormat,
    SignItem,
    SignResult,
)
from tests.support.pop import Pop

ORDER = ecdsa.SECP256k1.order


@pytest.fixture
def namespace(client: Client) -> str:
    """A namespace that the test has to itself."""
    return client.namespaces.create(name=f"sdk-{uuid4().hex[:12]}").name


@pytest.fixture
def key(client: Client, namespace: str) -> Key:
    return client.keys.create(name="signer", namespace=namespace)


def checked(signature: Signature, data: bytes) -> None:
    """The signature is low-S and by its public key, says an implementation that is not libsecp256k1."""
    verifier = ecdsa.VerifyingKey.from_string(bytes.fromhex(signature.public_key), curve=ecdsa.SECP256k1)
    assert verifier.verify(signature.signature[:64], data, hashfunc=hashlib.sha256, sigdecode=sigdecode_string)
    assert int.from_bytes(signature.signature[32:64], "big") <= ORDER // 2


def signatures_used(client: Client) -> int:
    return next(each.value for each in client.usage().usage if each.metric == "signatures")


def test_four_workers_are_created_in_one_call_and_sign(client: Client, namespace: str) -> None:
    workers = client.keys.create_batch(prefix="blob-worker", count=4, namespace=namespace)
    transactions = [b"tx %d" % number for number in range(4)]

    results = client.sign_batch([SignItem(worker, tx) for worker, tx in zip(workers, transactions, strict=True)])

    assert [worker.name for worker in workers] == [f"blob-worker-{number}" for number in (1, 2, 3, 4)]
    for worker, transaction, result in zip(workers, transactions, results, strict=True):
        signature = result.unwrap()
        checked(signature, transaction)
        assert signature.public_key == worker.public_key
        assert client.sign(worker, transaction).signature == signature.signature


def test_a_signature_verifies_by_key_name_and_bare_public_key(client: Client, key: Key) -> None:
    signature = client.sign(f"{key.namespace}/{key.name}", b"message")

    assert client.verify(key, b"message", signature)
    assert client.verify(f"{key.namespace}/{key.name}", b"message", signature)
    assert client.verify(bytes.fromhex(key.public_key), b"message", signature)
    assert not client.verify(key, b"another message", signature)


def test_a_digest_gives_a_recoverable_signature_of_its_message(client: Client, key: Key) -> None:
    digest = hashlib.sha256(b"message").digest()

    compact = client.sign(key, b"message")
    recoverable = client.sign(key, digest, prehashed=True, format=SignatureFormat.RECOVERABLE)

    assert recoverable.recovery_id in (0, 1)
    assert recoverable.signature == compact.signature + bytes((recoverable.recovery_id,))
    assert compact.recovery_id is None


def test_hash_and_format_are_the_ones_that_were_asked_for(client: Client, key: Key) -> None:
    sha, keccak = (client.sign(key, b"message", hash=each) for each in (HashAlgorithm.SHA256, HashAlgorithm.KECCAK256))
    der = client.sign(key, b"message", format=SignatureFormat.DER)

    assert sha.signature != keccak.signature
    assert client.verify(key, b"message", keccak, hash=HashAlgorithm.KECCAK256)
    assert der.signature[0] == 0x30
    assert client.verify(key, b"message", der, format=SignatureFormat.DER)


def test_a_repeat_with_the_same_request_id_counts_once(client: Client, key: Key) -> None:
    request_id = uuid4().hex
    before = signatures_used(client)

    first, second = (client.sign(key, b"message", request_id=request_id) for _ in range(2))

    assert first == second
    assert signatures_used(client) == before + 1
    with pytest.raises(RequestIdReused):
        client.sign(key, b"another message", request_id=request_id)


def test_a_bad_item_fails_alone(client: Client, key: Key) -> None:
    good, unknown, short = client.sign_batch(
        [SignItem(key, b"1"), SignItem("production/nobody", b"2"), SignItem(key, b"3", prehashed=True)]
    )

    checked(good.unwrap(), b"1")
    assert isinstance(unknown.error, KeyNotFound)
    assert isinstance(short.error, DigestLength)


def test_refusals_have_their_classes(client: Client, key: Key, namespace: str) -> None:
    with pytest.raises(KeyNameTaken):
        client.keys.create(name=key.name, namespace=namespace)
    with pytest.raises(NamespaceNotFound):
        client.keys.create(name="a", namespace="nowhere")
    with pytest.raises(NamespaceNotEmpty):
        client.namespaces.delete(namespace)
    with pytest.raises(DigestLength):
        client.sign(key, b"31 bytes".ljust(31), prehashed=True)
    with pytest.raises(DataTooLarge):
        client.sign(key, bytes(1024 * 1024 + 1))
    with pytest.raises(BatchTooLarge):
        client.sign_batch([SignItem(key, b"1")] * 257)


def test_a_key_lives_and_ends(client: Client, key: Key, namespace: str) -> None:
    renamed = client.keys.update(key, name="renamed", metadata={"chain": "celestia"})
    assert client.keys.get(f"{namespace}/renamed") == renamed
    assert [each.id for each in client.keys.list(namespace=namespace, labels={"chain": "celestia"})] == [key.id]

    assert client.keys.delete(key).state is KeyState.DELETED
    with pytest.raises(KeyDeleted):
        client.sign(key, b"message")
    assert client.keys.delete(key, force=True).state is KeyState.DESTROYED
    assert list(client.keys.list(namespace=namespace)) == []
    client.namespaces.delete(namespace)


def test_lists_go_over_all_pages(client: Client, namespace: str) -> None:
    created = client.keys.create_batch(names=[f"key-{number}" for number in range(7)], namespace=namespace)

    pages = list(client.keys.list(namespace=namespace, page_size=3).pages())

    assert [len(page) for page in pages] == [3, 3, 1]
    assert [key.id for page in pages for key in page] == [key.id for key in created]


def test_the_audit_trail_tells_who_signed_what(client: Client, key: Key) -> None:
    client.sign(key, b"message", sign_mode="SIGN_MODE_DIRECT", request_id="audit-" + key.id)

    (row,) = client.audit.list(event_type="key.signed", key=key)

    assert row == client.audit.get(row.id)
    assert row.actor.startswith("ak_")
    assert row.user_agent.startswith("popsigner-python/")
    assert row.metadata["data_hash"] == "sha256:" + hashlib.sha256(b"message").hexdigest()
    assert (row.metadata["sign_mode"], row.metadata["request_id"]) == ("SIGN_MODE_DIRECT", "audit-" + key.id)


def test_an_api_key_may_do_what_its_scopes_say_until_it_is_revoked(client: Client, pop: Pop, key: Key) -> None:
    created = client.api_keys.create(name="prover", scopes=["api:keys:sign"])

    with Client(api_key=created.key, endpoint=pop.http) as prover:
        checked(prover.sign(key, b"message"), b"message")
        with pytest.raises(ScopeMissing):
            prover.keys.get(key)
        client.api_keys.revoke(created.api_key)
        with pytest.raises(ApiKeyRevoked):
            prover.sign(key, b"message")
    assert next(each for each in client.api_keys.list() if each.id == created.api_key.id).revoked_at


def test_a_wrong_api_key_is_refused(pop: Pop) -> None:
    wrong = pop.api_key[:-4] + ("0000" if pop.api_key[-4:] != "0000" else "1111")

    with Client(api_key=wrong, endpoint=pop.http) as stranger, pytest.raises(CredentialsInvalid):
        stranger.usage()


@pytest.mark.parametrize("place", ["http", "grpc", "grpc_socket"])
def test_every_address_of_the_pop_serves(pop: Pop, key: Key, place: str) -> None:
    with Client(api_key=pop.api_key, endpoint=getattr(pop, place)) as client:
        checked(client.sign(key, b"message"), b"message")


async def collect(stream: AsyncIterator[tuple[Any, SignResult]]) -> dict[Any, SignResult]:
    found: dict[Any, SignResult] = {}
    async for tag, result in stream:
        assert tag not in found
        found[tag] = result
    return found


@pytest.mark.parametrize("place", ["http", "grpc"])
async def test_a_stream_answers_and_audits_every_item_once(pop: Pop, client: Client, key: Key, place: str) -> None:
    before = signatures_used(client)

    async with AsyncClient(api_key=pop.api_key, endpoint=getattr(pop, place)) as streaming:
        found = await collect(streaming.sign_stream(SignItem(key, b"message %d" % each) for each in range(1000)))

    assert sorted(found) == list(range(1000))
    assert signatures_used(client) == before + 1000
    assert len(list(client.audit.list(event_type="key.signed", key=key, page_size=1000))) == 1000
    for number in range(0, 1000, 100):
        checked(found[number].unwrap(), b"message %d" % number)


async def test_a_stream_goes_on_after_a_refused_item(async_client: AsyncClient, key: Key) -> None:
    items = [SignItem(key, b"1"), SignItem("production/nobody", b"2"), SignItem(key, b"3")]

    found = await collect(async_client.sign_stream(items, batch=1))

    assert isinstance(found[1].error, KeyNotFound)
    checked(found[0].unwrap(), b"1")
    checked(found[2].unwrap(), b"3")


async def test_a_stream_that_is_left_early_leaves_the_client_usable(async_client: AsyncClient, key: Key) -> None:
    stream = async_client.sign_stream(SignItem(key, b"%d" % number) for number in range(5000))
    await anext(stream)
    await stream.aclose()

    checked(await async_client.sign(key, b"message"), b"message")


async def test_signing_goes_on_over_the_death_of_the_server(pop: Pop, key: Key) -> None:
    patient = Retry(attempts=100, initial=0.1, ceiling=0.5)
    async with AsyncClient(api_key=pop.api_key, endpoint=pop.http, timeout=30, retry=patient) as client:
        before = next(each.value for each in (await client.usage()).usage if each.metric == "signatures")

        async def work(worker: int) -> list[Signature]:
            return [await client.sign(key, b"%d of %d" % (each, worker)) for each in range(60)]

        working = [asyncio.create_task(work(worker)) for worker in range(8)]
        await asyncio.sleep(0.3)
        await asyncio.to_thread(pop.kill, "server")
        signed = await asyncio.gather(*working)

        after = next(each.value for each in (await client.usage()).usage if each.metric == "signatures")
    assert len({each.request_id for one in signed for each in one}) == 8 * 60
    # Each counts once, however often it was asked for.
    assert after == before + 8 * 60


async def test_a_crowd_of_calls_at_once_is_answered(pop: Pop, key: Key) -> None:
    """At the server's own port, which takes 1 024 of them at once; none is refused and tried again."""
    once = Retry(attempts=1)
    async with AsyncClient(api_key=pop.api_key, endpoint=pop.grpc, timeout=60, retry=once) as client:
        signed = await asyncio.gather(*(client.sign(key, b"%d" % number) for number in range(2500)))
    assert len({each.signature for each in signed}) == 2500
