"""Whether a restored vault and database fit each other and the backup's manifest.

Nothing is signed: a signature without a row in its ledger must not exist. The engine derives each public key that it
shows from the private key that it keeps, so comparing these says as much.
"""

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

import psycopg

from popsigner_node.bao_session import Session
from popsigner_node.catalogue import Digest, KeyRow, State, keys, ledgers
from popsigner_node.errors import NodeError
from popsigner_node.manifest import Manifest
from popsigner_node.policies import MOUNT

_PAGE = 1000


def verify(connection: psycopg.Connection, session: Session, manifest: Manifest) -> None:
    """Compare all of it; keys that were begun between the backup's two moments are destroyed in the vault.

    connection: a superuser's, of the restored database. session: the server's role in the restored vault. Raises
    NodeError with the first difference, and http.client's errors.
    """
    found = ledgers(connection)
    if found.broken or found.heads != manifest.ledger:
        raise _different("the ledgers are not those of the manifest")
    expected, digest = {}, Digest()
    for key in keys(connection):
        digest.add(key)
        expected[key.id.hex] = key
    if digest.hexdigest() != manifest.catalogue:
        raise _different("the keys in the database are not those of the manifest")
    there = set(_names(session))
    for name in sorted(there.intersection(manifest.made_meanwhile) - expected.keys()):
        _destroy(session, name)
        there.discard(name)
    if strangers := there - {name for name, key in expected.items() if key.state is not State.DESTROYED}:
        raise _different(f"the vault holds {len(strangers)} keys that the database does not know")
    for name, key in expected.items():
        if key.lives:
            _check(key, _public_keys(session, name))


def _check(key: KeyRow, in_vault: Mapping[int, bytes]) -> None:
    """The vault may have one version more: a rotation that had not ended."""
    if {number: in_vault.get(number) for number in key.public_keys} != key.public_keys:
        raise _different(f"the vault does not hold all versions of the key {key.id.hex}")


def _names(session: Session) -> Iterator[str]:
    after = ""
    while True:
        status, answer = session.call("GET", f"{MOUNT}/keys?list=true&limit={_PAGE}&after={after}")
        if status == HTTPStatus.NOT_FOUND:
            return
        names = _data(status, answer)["keys"]
        yield from names
        if len(names) < _PAGE:
            return
        after = names[-1]


def _public_keys(session: Session, name: str) -> dict[int, bytes]:
    status, answer = session.call("GET", f"{MOUNT}/keys/{name}")
    if status == HTTPStatus.NOT_FOUND:
        raise _different(f"the vault does not hold the key {name}")
    versions = _data(status, answer)["versions"]
    return {int(number): bytes.fromhex(version["public_key"]) for number, version in versions.items()}


def _destroy(session: Session, name: str) -> None:
    session.call("POST", f"{MOUNT}/keys/{name}/config", {"deletion_allowed": True})
    status, _ = session.call("DELETE", f"{MOUNT}/keys/{name}")
    if status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND):
        raise NodeError(f"The vault does not delete the unfinished key {name} (status {status}).")


def _data(status: int, answer: Any) -> Any:
    if status != HTTPStatus.OK:
        raise NodeError(f"The restored vault does not answer for its keys (status {status}).")
    return answer["data"]


def _different(what: str) -> NodeError:
    return NodeError(f"What was restored does not fit: {what}. Do not use it; restore another backup.")
