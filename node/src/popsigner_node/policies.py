"""What may be done in OpenBao by whom: the policies of the two AppRoles, and how a POP that exists gets those of a new
release.

The server signs and changes keys, and does nothing else. The node writes policies and takes snapshots. Whoever holds
the node's secret id can give itself every right, and so can whoever holds the unseal key and raft's data, which lie in
the same folder: the role adds nobody to those who can. In containers the server's process gets neither.
"""

from http import HTTPStatus

from popsigner_node.bao_session import Session
from popsigner_node.errors import NodeError

MOUNT = "secp256k1"
SERVER_ROLE = "popsigner-server"
NODE_ROLE = "popsigner-node"

_OWN = """\
path "auth/token/renew-self" { capabilities = ["update"] }
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
"""

POLICIES = {
    # Nobody rotates the wrapping key over an RPC, so the server may only read it.
    SERVER_ROLE: f"""\
path "{MOUNT}/keys" {{ capabilities = ["list"] }}
path "{MOUNT}/keys/*" {{ capabilities = ["read", "update", "delete"] }}
path "{MOUNT}/batch/sign" {{ capabilities = ["patch"] }}
path "{MOUNT}/wrapping_key" {{ capabilities = ["read"] }}
path "{MOUNT}/export/*" {{ capabilities = ["update"] }}
path "{MOUNT}/recovery/*" {{ capabilities = ["read", "update", "delete"] }}
{_OWN}""",
    # Its own policy too: what a later release of the node needs, it gives itself.
    NODE_ROLE: f"""\
path "sys/policies/acl/popsigner-*" {{ capabilities = ["read", "update"] }}
path "sys/storage/raft/snapshot" {{ capabilities = ["read"] }}
{_OWN}""",
}
"""Policy by name; each AppRole has the one of its own name."""


def align(session: Session) -> list[str]:
    """Write the policies that are not as this release has them; return their names. `session` is the node's role's.

    Raises NodeError when OpenBao refuses.
    """
    written = []
    for name, rules in POLICIES.items():
        path = f"sys/policies/acl/{name}"
        status, answer = session.call("GET", path)
        if status == HTTPStatus.OK and answer["data"]["policy"] == rules:
            continue
        if status in (HTTPStatus.OK, HTTPStatus.NOT_FOUND):
            status, _ = session.call("POST", path, {"policy": rules})
        if status not in (HTTPStatus.OK, HTTPStatus.NO_CONTENT):
            raise NodeError(f"OpenBao does not let the node write the policy {name} (status {status}).")
        written.append(name)
    return written
