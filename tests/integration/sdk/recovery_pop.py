"""An organization that can leave: keys of every sort in a POP of its own, and the identity that was kept offline."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from popsigner import Client, Key
from tests.support.pop import Pop
from tests.unit.sdk.sealed import Identity

PROGRAM = Path(sys.executable).with_name("popsigner")
_PATIENCE = 90.0
_OFFLINE = {
    **{name: value for name, value in os.environ.items() if not name.startswith("POPSIGNER_")},
    "XDG_CONFIG_HOME": "/nowhere/at/all",
    "POPSIGNER_ENDPOINT": "127.0.0.1:1",
}


@dataclass(frozen=True, slots=True)
class Leaver:
    """20 keys in two namespaces with different prefixes: exportable and not, rotated, disabled, one deleted besides."""

    pop: Pop
    client: Client
    identity: Identity
    home: Path
    keys: dict[str, Key] = field(default_factory=dict)

    @property
    def identity_file(self) -> Path:
        path = self.home / "identity.txt"
        if not path.exists():
            path.write_bytes(self.identity.file)
        return path

    def run(self, *arguments: str, offline: bool = False) -> "subprocess.CompletedProcess[str]":
        """The installed command, as the leaver runs it; `offline` knows of no POP."""
        return subprocess.run(
            [str(PROGRAM), *arguments],
            env=_OFFLINE if offline else self.environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=110,
        )

    @property
    def environment(self) -> dict[str, str]:
        """What the leaver's shell has."""
        key_file = self.home / "owner.key"
        key_file.write_text(self.pop.api_key + "\n")
        names = {
            "POPSIGNER_ENDPOINT": self.pop.http,
            "POPSIGNER_API_KEY_FILE": str(key_file),
            "XDG_STATE_HOME": str(self.home / "state"),
        }
        return {**os.environ, **names}

    def covered(self) -> None:
        """Wait until every key has its copies."""
        deadline = time.monotonic() + _PATIENCE
        while (found := self.client.recovery.get()).covered < found.keys:
            assert time.monotonic() < deadline, found
            time.sleep(0.2)


def populate(client: Client) -> dict[str, Key]:
    """The keys, by `namespace/name`; a deleted one is not among them."""
    client.namespaces.create(name="osmosis", address_prefix="osmo")
    keys = [
        *client.keys.create_batch(prefix="exportable", count=5, exportable=True),
        *client.keys.create_batch(prefix="kept", count=5),
        *client.keys.create_batch(prefix="exportable", count=5, namespace="osmosis", exportable=True),
        *client.keys.create_batch(prefix="kept", count=5, namespace="osmosis"),
    ]
    names = {f"{key.namespace}/{key.name}": key for key in keys}
    for name, times in (("production/kept-1", 2), ("production/exportable-1", 1), ("osmosis/kept-2", 1)):
        for _ in range(times):
            names[name] = client.keys.rotate(names[name]).key
    for name in ("production/kept-3", "osmosis/exportable-3"):
        names[name] = client.keys.disable(names[name])
    client.keys.delete(client.keys.create(name="thrown-away"))
    return names


@contextmanager
def leaver(home: Path) -> Iterator[Leaver]:
    """A POP of its own with all of it, every key covered by a recovery copy from its creation on."""
    identity = Identity()
    with (
        Pop.started(environment={"POPSIGNER_RECOVERY_WAIT": "0"}) as pop,
        Client(api_key=pop.api_key, endpoint=pop.http) as client,
    ):
        client.recovery.set(identity.recipient)
        found = Leaver(pop, client, identity, home, populate(client))
        found.covered()
        yield found
