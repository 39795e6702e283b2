"""What OpenBao's own Transit engine does with ecdsa-p256, over a unix socket and with a file audit device like ours."""

import asyncio
import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from tests.bench.load import Call

CONFIG = """
listener "unix" {{ address = "{home}/bao.sock" }}
audit "file" "main" {{ options {{ file_path = "{home}/audit.log" }} }}
"""


@asynccontextmanager
async def transit() -> AsyncIterator[Call]:
    """A call that signs one digest. OpenBao runs in its dev mode, with storage in memory; signing writes nothing."""
    home = Path(tempfile.mkdtemp(prefix="tr-"))
    (home / "bao.hcl").write_text(CONFIG.format(home=home))
    token = os.urandom(16).hex()
    options = ["-dev", "-dev-listen-address=127.0.0.1:0", "-dev-no-store-token", f"-config={home}/bao.hcl"]
    process = subprocess.Popen(  # noqa: ASYNC220 - before the measurement nothing else runs on this loop
        ["bao", "server", *options],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "BAO_DEV_ROOT_TOKEN_ID": token},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    connector = aiohttp.UnixConnector(str(home / "bao.sock"), limit=0)
    session = aiohttp.ClientSession(connector=connector, headers={"X-Vault-Token": token})
    body = json.dumps({"input": base64.b64encode(os.urandom(32)).decode(), "prehashed": True}).encode()

    async def sign() -> None:
        async with session.post("http://bao/v1/transit/sign/bench", data=body) as answer:
            assert answer.status == 200, await answer.text()
            await answer.read()

    try:
        await _prepare(session)
        yield sign
    finally:
        await session.close()
        process.terminate()
        process.wait(timeout=10)
        shutil.rmtree(home, ignore_errors=True)


async def _prepare(session: aiohttp.ClientSession) -> None:
    for _ in range(100):
        try:
            async with session.post("http://bao/v1/sys/mounts/transit", json={"type": "transit"}) as answer:
                if answer.status == 204:
                    break
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.1)
    async with session.post("http://bao/v1/transit/keys/bench", json={"type": "ecdsa-p256"}) as made:
        assert made.status in (200, 204), await made.text()
