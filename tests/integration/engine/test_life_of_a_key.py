"""A key's life, through OpenBao's HTTP API."""

import asyncio
from pathlib import Path

import pytest

from popsigner_node.policies import SERVER_ROLE
from tests.integration.engine.calls import create, encoded, fresh_name, sign_batch
from tests.support.openbao import OpenBaoServer, Vault
from tests.unit.plugin.outside import AgeIdentity, wrapped

DIGEST = encoded(bytes(range(32)))
RECIPIENT = AgeIdentity.made().recipient


async def sign(vault: Vault, name: str) -> int:
    return (await vault.call("POST", f"sign/{name}", {"input": DIGEST, "prehashed": True}))[0]


async def test_a_key_is_created_read_listed_and_deleted(vault: Vault) -> None:
    name = fresh_name()
    status, created = await vault.call("POST", f"keys/{name}", {"deletion_allowed": True})
    assert status == 200
    data = created["data"]
    assert data["versions"]["1"]["public_key"] == data["public_key"]
    assert len(bytes.fromhex(data["public_key"])) == 33
    assert (data["latest_version"], data["min_signing_version"]) == (1, 1)
    assert (data["enabled"], data["exportable"], data["deletion_allowed"]) == (True, False, True)
    status, read = await vault.call("GET", f"keys/{name}")
    assert (status, read["data"]) == (200, data)
    _, listed = await vault.call("LIST", "keys")
    assert name in listed["data"]["keys"]
    assert await vault.call("DELETE", f"keys/{name}") == (204, None)
    assert (await vault.call("GET", f"keys/{name}"))[0] == 404
    assert await sign(vault, name) == 404
    assert (await vault.call("DELETE", f"keys/{name}"))[0] == 404


async def test_a_name_is_free_again_after_its_key_is_deleted_and_gets_another_key(vault: Vault) -> None:
    name, first = await create(vault, deletion_allowed=True)
    await vault.call("DELETE", f"keys/{name}")
    _, second = await create(vault, name)
    assert first != second


async def test_a_key_that_does_not_allow_deletion_stays(vault: Vault) -> None:
    name, _ = await create(vault)
    status, body = await vault.call("DELETE", f"keys/{name}")
    assert status == 409
    assert "set deletion_allowed in its config first" in str(body)
    assert await sign(vault, name) == 200
    assert (await vault.call("POST", f"keys/{name}/config", {"deletion_allowed": True}))[0] == 200
    assert (await vault.call("DELETE", f"keys/{name}"))[0] == 204


async def test_a_disabled_key_does_not_sign_until_it_is_enabled(vault: Vault) -> None:
    name, _ = await create(vault)
    assert await sign(vault, name) == 200
    status, body = await vault.call("POST", f"keys/{name}/config", {"enabled": False})
    assert (status, body["data"]["enabled"]) == (200, False)
    assert await sign(vault, name) == 409
    await vault.call("POST", f"keys/{name}/config", {"enabled": True})
    assert await sign(vault, name) == 200


async def test_exportable_is_only_ever_given_up(vault: Vault) -> None:
    name, _ = await create(vault, exportable=True)
    assert (await vault.call("POST", f"keys/{name}/config", {"exportable": False}))[0] == 200
    assert (await vault.call("POST", f"keys/{name}/config", {"exportable": True}))[0] == 409
    _, read = await vault.call("GET", f"keys/{name}")
    assert read["data"]["exportable"] is False


async def test_lists_are_paged_in_order(vault: Vault) -> None:
    for name in ("page-1", "page-2", "page-3"):
        await create(vault, name)
    _, first = await vault.call("GET", "keys?list=true&after=page-&limit=2")
    assert first["data"]["keys"] == ["page-1", "page-2"]
    _, second = await vault.call("GET", "keys?list=true&after=page-2&limit=1")
    assert second["data"]["keys"] == ["page-3"]


async def test_of_many_concurrent_creates_of_one_name_exactly_one_wins(vault: Vault) -> None:
    name = fresh_name()
    answers = await asyncio.gather(*(vault.call("POST", f"keys/{name}", {}) for _ in range(24)))
    winners = [body for status, body in answers if status == 200]
    assert len(winners) == 1
    assert sorted(status for status, _ in answers) == [200] + [409] * 23
    _, read = await vault.call("GET", f"keys/{name}")
    assert read["data"]["public_key"] == winners[0]["data"]["public_key"]


@pytest.mark.parametrize(
    ("method", "path", "data", "status", "sentence"),
    [
        ("GET", "keys/nobody", None, 404, "There is no key 'nobody'."),
        ("POST", "keys/nobody/config", {"enabled": False}, 404, "There is no key 'nobody'."),
        ("POST", "sign/nobody", {"input": DIGEST, "prehashed": True}, 404, "There is no key 'nobody'."),
        ("POST", "verify/nobody", {"input": DIGEST, "signature": ""}, 404, "There is no key 'nobody'."),
        ("POST", "keys/%20x", {}, 400, "A key's name is"),
        ("POST", "keys/x", {"owner": "me"}, 400, "BAD_INPUT: Unknown field 'owner'"),
        ("POST", "keys/x", {"recovery_recipient": "age1"}, 400, "RECIPIENT_INVALID: The recipient is no age X25519"),
        ("POST", "keys/x", {"exportable": "perhaps"}, 400, "`exportable` must be true or false."),
        ("POST", "sign/x", {"input": "*"}, 400, "`input` is not valid base64"),
        ("POST", "sign/x", {"input": encoded(bytes(31)), "prehashed": True}, 400, "this one has 31"),
        ("PATCH", "batch/sign", {"packed": "*"}, 400, "`packed` is not valid base64"),
        ("PATCH", "batch/sign", {}, 400, "`packed` is required"),
        ("POST", "keys/nobody/rotate", {}, 404, "KEY_UNKNOWN: There is no key 'nobody'."),
        ("POST", "export/nobody", {"recipient": RECIPIENT}, 404, "KEY_UNKNOWN: There is no key 'nobody'."),
        ("GET", "recovery/nobody", None, 404, "KEY_UNKNOWN: There is no key 'nobody'."),
        ("POST", "recovery/nobody", {"recipient": RECIPIENT}, 404, "KEY_UNKNOWN: There is no key 'nobody'."),
        ("DELETE", "recovery/nobody", None, 404, "KEY_UNKNOWN: There is no key 'nobody'."),
        ("POST", "keys/x/import", {}, 400, "BAD_INPUT: `ciphertext` is required"),
        ("POST", "keys/x/trim", {}, 404, "PATH_UNKNOWN: The engine has no path 'keys/x/trim'."),
        ("GET", "keys/x/import", None, 405, "OPERATION_IMPOSSIBLE: The operation 'read' is not possible"),
        ("GET", "sign/x", None, 405, "not possible on 'sign/x'"),
    ],
)
async def test_bad_input_gets_its_status_and_one_sentence(
    vault: Vault, method: str, path: str, data: dict[str, object] | None, status: int, sentence: str
) -> None:
    got, body = await vault.call(method, path, data)
    assert got == status, body
    assert sentence in str(body["errors"])


async def test_the_server_role_reaches_what_it_needs_and_no_more(openbao: OpenBaoServer) -> None:
    server = await openbao.login(SERVER_ROLE)
    try:
        name, _ = await create(server)
        allowed = [
            await server.call("GET", f"keys/{name}"),
            await server.call("LIST", "keys"),
            await server.call("POST", f"keys/{name}/rotate", {}),
            await server.call("GET", "wrapping_key"),
            await server.call("POST", f"recovery/{name}", {"recipient": RECIPIENT}),
            await server.call("GET", f"recovery/{name}"),
            await server.call("DELETE", f"recovery/{name}"),
            await server.call("POST", f"keys/{name}/config", {"deletion_allowed": True}),
            await server.call("DELETE", f"keys/{name}"),
        ]
        assert [status for status, _ in allowed] == [200, 200, 200, 200, 200, 200, 204, 200, 204]
        # The engine refuses what is not exportable; the policy lets the question through.
        assert (await server.call("POST", f"export/{name}", {"recipient": RECIPIENT}))[0] == 404
        for method, path in (("POST", f"sign/{name}"), ("POST", "wrapping_key/rotate"), ("GET", "/sys/mounts")):
            assert (await server.call(method, path, {} if method == "POST" else None))[0] == 403
    finally:
        await server.close()


async def test_the_least_policy_of_the_documentation_is_enough(openbao: OpenBaoServer, vault: Vault) -> None:
    page = await asyncio.to_thread((Path(__file__).parents[3] / "docs" / "engine.md").read_text)
    policy = page.split("```hcl")[1].split("```")[0]
    role = "/auth/approle/role/least"
    for path, data in (
        ("/sys/policies/acl/least", {"policy": policy}),
        (role, {"role_id": "least", "token_policies": ["least"], "token_no_default_policy": True}),
        (f"{role}/custom-secret-id", {"secret_id": "least"}),
    ):
        assert (await vault.call("POST", path, data))[0] in (200, 204)
    least = await openbao.login("least")
    try:
        name, _ = await create(least, deletion_allowed=True, exportable=True, recovery_recipient=RECIPIENT)
        assert (await least.call("LIST", "keys"))[0] == 200
        assert (await least.call("GET", f"keys/{name}"))[0] == 200
        assert (await least.call("POST", f"keys/{name}/config", {"enabled": True}))[0] == 200
        assert (await least.call("POST", f"keys/{name}/rotate", {"to_version": 2}))[0] == 200
        assert (await sign_batch(least, [name], [0], bytes(32))).signatures[0]
        assert (await least.call("POST", f"export/{name}", {"recipient": RECIPIENT}))[0] == 200
        assert (await least.call("GET", f"recovery/{name}"))[0] == 200
        assert (await least.call("POST", f"recovery/{name}", {"recipient": RECIPIENT}))[0] == 200
        assert (await least.call("DELETE", f"recovery/{name}"))[0] == 204
        status, body = await least.call("GET", "wrapping_key")
        assert status == 200
        ciphertext = encoded(wrapped(b"\x17" * 32, body["data"]["public_key"]))
        assert (await least.call("POST", f"keys/{fresh_name()}/import", {"ciphertext": ciphertext}))[0] == 200
        assert (await least.call("POST", "wrapping_key/rotate", {"replaces": body["data"]["id"]}))[0] == 403
        assert (await least.call("DELETE", f"keys/{name}"))[0] == 204
        for path in (f"sign/{name}", f"verify/{name}"):
            assert (await least.call("POST", path, {"input": DIGEST}))[0] == 403
        for path in ("/sys/mounts", "/sys/raw/logical"):
            assert (await least.call("GET", path))[0] == 403
    finally:
        await least.close()
