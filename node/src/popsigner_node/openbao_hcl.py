"""OpenBao's configuration file, with everything that its first start does by itself."""

import json
from pathlib import Path

from popsigner_plugin.install import Registration

MOUNT = "secp256k1"
ROLE_ID = "popsigner-server"

_PLUGIN = "popsigner-secp256k1"
_POLICY = "popsigner-server"
_TOKEN_PERIOD = "1h"  # noqa: S105 - a duration: a token that is not renewed for so long ends

_RULES = f"""\
path "{MOUNT}/keys" {{ capabilities = ["list"] }}
path "{MOUNT}/keys/*" {{ capabilities = ["create", "read", "update", "patch", "delete", "list"] }}
path "{MOUNT}/batch/sign" {{ capabilities = ["patch"] }}
path "auth/token/renew-self" {{ capabilities = ["update"] }}
path "auth/token/lookup-self" {{ capabilities = ["read"] }}
path "auth/token/revoke-self" {{ capabilities = ["update"] }}
"""

# HCL and not JSON: OpenBao's reader flattens single-entry JSON objects and then misses the labels of `audit`.
_TEMPLATE = f"""\
# Written by `popsigner up` at each start: changes here do not last.
storage "raft" {{{{
  path = {{raft}}
  node_id = "pop"
  performance_multiplier = 1
}}}}
listener "unix" {{{{
  address = {{socket}}
  socket_mode = "0600"
}}}}
# Raft does not start without a TCP listener. Our own processes use the unix socket.
listener "tcp" {{{{
  address = {{api}}
  cluster_address = {{cluster}}
  tls_disable = true
}}}}
# One node has no standby whose reads would help, and serving them makes OpenBao start the engine once more.
disable_standby_reads = true
api_addr = {{api_url}}
cluster_addr = {{cluster_url}}
seal "static" {{{{
  current_key_id = "1"
  current_key = {{unseal_key}}
}}}}
plugin_directory = {{plugins}}
plugin_auto_register = {{register}}
plugin "secret" "{_PLUGIN}" {{{{
  command = {{command}}
  version = {{version}}
  sha256sum = {{sha256}}
}}}}
audit "file" "main" {{{{
  options {{{{
    file_path = {{audit_log}}
    mode = "0600"
  }}}}
}}}}
initialize "pop" {{{{
  request "mount" {{{{
    operation = "update"
    path = "sys/mounts/{MOUNT}"
    data = {{{{ type = "{_PLUGIN}" plugin_version = {{version}} }}}}
  }}}}
  request "approle" {{{{
    operation = "update"
    path = "sys/auth/approle"
    data = {{{{ type = "approle" }}}}
  }}}}
  request "policy" {{{{
    operation = "update"
    path = "sys/policies/acl/{_POLICY}"
    data = {{{{ policy = {{rules}} }}}}
  }}}}
  request "role" {{{{
    operation = "update"
    path = "auth/approle/role/{ROLE_ID}"
    data = {{{{
      role_id = "{ROLE_ID}"
      token_policies = ["{_POLICY}"]
      token_no_default_policy = true
      token_period = "{_TOKEN_PERIOD}"
    }}}}
  }}}}
  request "secret-id" {{{{
    operation = "update"
    path = "auth/approle/role/{ROLE_ID}/custom-secret-id"
    data = {{{{ secret_id = {{{{ eval_source = "file" eval_type = "string" path = {{secret_id_file}} }}}} }}}}
  }}}}
}}}}
"""


def rendered(
    *,
    raft: Path,
    socket: Path,
    api: str,
    cluster: str,
    unseal_key: Path,
    plugins: Path,
    plugin: Registration,
    register: bool,
    audit_log: Path,
    secret_id_file: Path,
) -> str:
    """The file's text. api, cluster: `host:port` on loopback. register: put the engine into OpenBao's catalogue."""
    return _TEMPLATE.format_map(
        {
            "raft": _quoted(raft),
            "socket": _quoted(socket),
            "api": _quoted(api),
            "api_url": _quoted(f"http://{api}"),
            "cluster": _quoted(cluster),
            "cluster_url": _quoted(f"http://{cluster}"),
            "unseal_key": _quoted(f"file://{unseal_key}"),
            "plugins": _quoted(plugins),
            "register": "true" if register else "false",
            "command": _quoted(plugin.command),
            "version": _quoted(plugin.version),
            "sha256": _quoted(plugin.sha256),
            "audit_log": _quoted(audit_log),
            "rules": _quoted(_RULES),
            "secret_id_file": _quoted(secret_id_file),
        }
    )


def _quoted(text: str | Path) -> str:
    """A string literal of HCL 1, which reads JSON's escapes."""
    return json.dumps(str(text))
