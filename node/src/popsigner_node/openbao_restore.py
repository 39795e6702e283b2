"""A vault from a snapshot: a fresh OpenBao with the same unseal key takes it in, and is stopped again.

What the fresh one had of its own (a role that may restore, and nothing else) is replaced with all the rest. OpenBao
refuses a snapshot that was sealed with another key.
"""

import asyncio
import http.client
import secrets
import time
from http import HTTPStatus
from pathlib import Path

from popsigner_node.bao_session import LoginRefused, Session
from popsigner_node.errors import Exit, NodeError
from popsigner_node.openbao import OpenBao
from popsigner_node.openbao_hcl import RESTORE_ROLE, rendered_for_restore
from popsigner_node.parts import openbao_program
from popsigner_node.policies import SERVER_ROLE
from popsigner_node.secret_files import write_secret
from popsigner_node.stores import PATIENCE, Stores

_POLL = 0.05


async def restore_vault(stores: Stores, snapshot: Path) -> None:
    """Make the vault below `stores.vault.folder`, where its secrets are already. Afterwards it is stopped, and starts
    like any other. Raises NodeError."""
    vault = stores.vault
    secret_id = vault.folder / "restore-secret-id"
    write_secret(secret_id, secrets.token_hex(32).encode())
    vault.prepare_restore(rendered_for_restore(vault.places(), secret_id=secret_id))
    ready_to_restore = _Asked(vault, RESTORE_ROLE, secret_id.read_text())
    program = openbao_program(vault, log=stores.log("openbao"), ready=ready_to_restore)
    child = await stores.start(program)
    await asyncio.to_thread(_upload, vault, secret_id.read_text(), snapshot)
    # The answer may come before OpenBao has turned to its new content, which knows the server.
    restored = _Asked(vault, SERVER_ROLE, vault.secret_id_file.read_text())
    deadline = time.monotonic() + PATIENCE
    while not await restored():
        if time.monotonic() > deadline:
            raise NodeError(f"OpenBao does not come back with the snapshot's content (log: {stores.log('openbao')}).")
        await asyncio.sleep(_POLL)
    await stores.end(child)
    secret_id.unlink()
    vault.mark_initialised()


class _Asked:
    """Whether a role can log in."""

    def __init__(self, vault: OpenBao, role: str, secret_id: str) -> None:
        self._vault = vault
        self._role = role
        self._secret_id = secret_id

    async def __call__(self) -> bool:
        return await asyncio.to_thread(self._ask)

    def _ask(self) -> bool:
        try:
            with Session.opened(self._vault.socket, role=self._role, secret_id=self._secret_id, timeout=5):
                return True
        except (OSError, http.client.HTTPException, LoginRefused):
            return False


def _upload(vault: OpenBao, secret_id: str, snapshot: Path) -> None:
    try:
        with (
            Session.opened(vault.socket, role=RESTORE_ROLE, secret_id=secret_id) as session,
            snapshot.open("rb") as file,
        ):
            status = session.upload("sys/storage/raft/snapshot", file)
    except (ConnectionError, TimeoutError, http.client.HTTPException) as error:
        raise NodeError("OpenBao went away while it took the snapshot in: run the restore again.") from error
    if status == HTTPStatus.BAD_REQUEST:
        raise NodeError(
            "OpenBao refuses the snapshot: it was not sealed with the unseal key of this backup.", code=Exit.UNSEAL_KEY
        )
    if status not in (HTTPStatus.OK, HTTPStatus.NO_CONTENT):
        raise NodeError(f"OpenBao does not take the snapshot in (status {status}).")
