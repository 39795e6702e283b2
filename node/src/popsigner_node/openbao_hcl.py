"""OpenBao's configuration file, with everything that its first start does by itself."""

import json
from dataclasses import dataclass
from pathlib import Path

from popsigner_node.policies import MOUNT, NODE_ROLE, POLICIES, SERVER_ROLE
from popsigner_plugin.install import Registration

RESTORE_ROLE = "restore"
# Relative to the folder that OpenBao works in: the vault keeps this path, so it must hold on the next machine too.
AUDIT_LOG = "audit.log"

_PLUGIN = "popsigner-secp256k1"

# What the AppRoles' tokens are. The server renews its own; the node's lasts for one visit.
_TOKENS = {SERVER_ROLE: {"token_period": "1h"}, NODE_ROLE: {"token_ttl": "15m", "token_max_ttl": "15m"}}
_RESTORE_RULES = """\
path "sys/storage/raft/snapshot" { capabilities = ["update"] }
"""

# HCL and not JSON: OpenBao's reader flattens single-entry JSON objects and then misses the labels of `audit`.
_SERVER = """\
# Written by `popsigner up` at each start: changes here do not last.
storage "raft" {{
  path = {raft}
  node_id = "pop"
  performance_multiplier = 1
}}
listener "unix" {{
  address = {socket}
  socket_mode = "0600"
}}
# Raft does not start without a TCP listener. Our own processes use the unix socket.
listener "tcp" {{
  address = {api}
  cluster_address = {cluster}
  tls_disable = true
}}
# One node has no standby whose reads would help, and serving them makes OpenBao start the engine once more.
disable_standby_reads = true
# Entries of storage in memory, 131 072 by default: each key that is made would make it larger for months. The engine
# has a memory of its own for keys, and a token that is in use stays among so many.
cache_size = "1024"
api_addr = {api_url}
cluster_addr = {cluster_url}
seal "static" {{
  current_key_id = "1"
  current_key = {unseal_key}
}}
plugin_directory = {plugins}
"""

_ENGINE = f"""\
plugin_auto_register = {{register}}
plugin "secret" "{_PLUGIN}" {{{{
  command = {{command}}
  version = {{version}}
  sha256sum = {{sha256}}
}}}}
audit "file" "main" {{{{
  options {{{{
    file_path = "{AUDIT_LOG}"
    mode = "0600"
  }}}}
}}}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where an OpenBao has its things. api, cluster: `host:port` on loopback."""

    raft: Path
    socket: Path
    api: str
    cluster: str
    unseal_key: Path
    plugins: Path

    def rendered(self) -> str:
        return _SERVER.format(
            raft=_quoted(self.raft),
            socket=_quoted(self.socket),
            api=_quoted(self.api),
            api_url=_quoted(f"http://{self.api}"),
            cluster=_quoted(self.cluster),
            cluster_url=_quoted(f"http://{self.cluster}"),
            unseal_key=_quoted(f"file://{self.unseal_key}"),
            plugins=_quoted(self.plugins),
        )


def rendered(
    places: Places,
    *,
    plugin: Registration,
    register: bool,
    server_secret_id: Path,
    node_secret_id: Path,
) -> str:
    """The file's text. register: put the engine into OpenBao's catalogue."""
    engine = _ENGINE.format(
        register="true" if register else "false",
        command=_quoted(plugin.command),
        version=_quoted(plugin.version),
        sha256=_quoted(plugin.sha256),
    )
    requests = [
        _request("mount", f"sys/mounts/{MOUNT}", {"type": _PLUGIN, "plugin_version": plugin.version}),
        _request("approle", "sys/auth/approle", {"type": "approle"}),
        *_role(SERVER_ROLE, POLICIES[SERVER_ROLE], server_secret_id),
        *_role(NODE_ROLE, POLICIES[NODE_ROLE], node_secret_id),
    ]
    return places.rendered() + engine + _initialize(requests)


def rendered_for_restore(places: Places, *, secret_id: Path) -> str:
    """The text for an OpenBao that does nothing but take a snapshot in: no engine, no trail, one role that may do it
    and that is gone once it has."""
    requests = [
        _request("approle", "sys/auth/approle", {"type": "approle"}),
        *_role(RESTORE_ROLE, _RESTORE_RULES, secret_id),
    ]
    return places.rendered() + _initialize(requests)


def _initialize(requests: list[str]) -> str:
    return f'initialize "pop" {{\n{"".join(requests)}}}\n'


def _role(name: str, rules: str, secret_id: Path) -> list[str]:
    """A policy, an AppRole with no other, and its secret id, which OpenBao reads from the file at its first start."""
    role = {"role_id": name, "token_policies": [name], "token_no_default_policy": True, **_TOKENS.get(name, {})}
    from_file = f'{{ eval_source = "file" eval_type = "string" path = {_quoted(secret_id)} }}'
    return [
        _request(f"policy-{name}", f"sys/policies/acl/{name}", {"policy": rules}),
        _request(f"role-{name}", f"auth/approle/role/{name}", role),
        _block(f"secret-id-{name}", f"auth/approle/role/{name}/custom-secret-id", [f"secret_id = {from_file}"]),
    ]


def _request(name: str, path: str, data: dict[str, object]) -> str:
    return _block(name, path, [f"{key} = {json.dumps(value)}" for key, value in data.items()])


def _block(name: str, path: str, data: list[str]) -> str:
    lines = "".join(f"      {line}\n" for line in data)
    return f'  request "{name}" {{\n    operation = "update"\n    path = "{path}"\n    data = {{\n{lines}    }}\n  }}\n'


def _quoted(text: str | Path) -> str:
    """A string literal of HCL 1, which reads JSON's escapes."""
    return json.dumps(str(text))
