"""What can be chosen: TLS, several servers, somebody else's PostgreSQL and OpenBao."""

import datetime
import json
import shutil
import ssl
import tempfile
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.integration.node.test_openbao import Vault
from tests.support.pop import Pop
from tests.support.postgres import PostgresServer


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key; PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pop")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = tmp_path / "pop.crt", tmp_path / "pop.key"
    certificate_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


def _create(pop: Pop, name: str, context: ssl.SSLContext | None = None) -> int:
    request = urllib.request.Request(  # noqa: S310 - the POP's own address
        f"{pop.http}/v1/keys",
        data=json.dumps({"name": name}).encode(),
        headers={"content-type": "application/json", "x-api-key": pop.api_key},
    )
    with urllib.request.urlopen(request, timeout=10, context=context) as answer:  # noqa: S310 - as above
        return int(answer.status)


def test_with_a_certificate_the_public_port_speaks_tls_1_3_alone(certificate: tuple[Path, Path]) -> None:
    options = ["--bind", "0.0.0.0", "--servers", "2", "--tls-cert", str(certificate[0]), "--tls-key"]
    with Pop.started(options=[*options, str(certificate[1])]) as pop:
        assert pop.http.startswith("https://127.0.0.1:")
        assert {"server", "server-2"} <= set(pop.processes)
        context = ssl.create_default_context(cafile=str(certificate[0]))
        assert _create(pop, "over-tls", context) == 200
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(urllib.error.URLError):
            _create(pop, "over-old-tls", context)
        assert "plaintext" not in pop.output.read_text()


@pytest.fixture
async def vault() -> AsyncIterator[Vault]:
    home = Path(tempfile.mkdtemp(prefix="bao-", dir="/tmp"))
    vault = Vault(home)
    try:
        await vault.start()
        yield vault
    finally:
        await vault.end()
        shutil.rmtree(home)


async def test_somebody_elses_postgresql_and_openbao_are_used_and_not_started(vault: Vault) -> None:
    with PostgresServer.started() as postgres:
        options = ["--database-url", postgres.fresh_database(), "--bao-addr", vault.part.address]
        options += ["--bao-secret-id-file", str(vault.part.secret_id_file), "--bind", "0.0.0.0"]
        with Pop.started(options=options) as pop:
            assert set(pop.processes) == {"server", "web", "envoy"}
            assert _create(pop, "elsewhere") == 200
            assert not (pop.data_dir / "postgres").exists()
            assert not (pop.data_dir / "openbao").exists()
            assert "plaintext" in pop.output.read_text()
            organization = pop.organization
            assert pop.stop() == 0
            pop.start()
            assert pop.organization == organization
            assert "api_key" not in pop.ready()
