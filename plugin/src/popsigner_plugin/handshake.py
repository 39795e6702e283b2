"""go-plugin's handshake: who started us, mutual TLS, and the one line on standard output."""

import base64
import datetime
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_COOKIE: Final = ("VAULT_BACKEND_PLUGIN", "6669da05-b1c8-4f49-97d9-c8e5bed98e20")
_CORE_PROTOCOL: Final = 1
_APP_PROTOCOL: Final = 5


class HandshakeError(Exception):
    """The program was not started by an OpenBao that it can talk to; the text says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What OpenBao gave us. certificate: its own, PEM. sockets: the folder for our socket, None for the system's."""

    certificate: str
    sockets: Path | None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Host":
        """Read the environment; raises HandshakeError."""
        name, value = _COOKIE
        if environment.get(name) != value:
            raise HandshakeError(
                "This program is a plugin: OpenBao starts it. Register it in OpenBao's catalogue and mount it;"
                " it does nothing when run by hand."
            )
        offered = environment.get("PLUGIN_PROTOCOL_VERSIONS", "")
        if str(_APP_PROTOCOL) not in offered.split(","):
            raise HandshakeError(
                f"OpenBao offers plugin protocol {offered or 'none'}, this plugin speaks {_APP_PROTOCOL}."
            )
        certificate = environment.get("PLUGIN_CLIENT_CERT", "")
        if not certificate:
            raise HandshakeError("OpenBao gave no client certificate; this plugin speaks mutual TLS alone.")
        sockets = environment.get("PLUGIN_UNIX_SOCKET_DIR")
        return cls(certificate=certificate, sockets=Path(sockets) if sockets else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Our side of mutual TLS, made anew in each process. certificate: DER."""

    certificate: bytes
    server: ssl.SSLContext
    client: ssl.SSLContext

    @classmethod
    def made(cls, host: Host) -> "Identity":
        """A fresh key and self-signed certificate; the host's certificate is the only one that is trusted."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _self_signed(key)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ) + certificate.public_bytes(serialization.Encoding.PEM)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # Python's ssl reads private keys from files alone: this one lives in memory and has no name on any disk.
        descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, pem)
            for context in (server, client):
                context.minimum_version = ssl.TLSVersion.TLSv1_3
                context.load_cert_chain(f"/proc/self/fd/{descriptor}")
                context.load_verify_locations(cadata=host.certificate)
                context.set_alpn_protocols(["h2"])
        finally:
            os.close(descriptor)
        server.verify_mode = ssl.CERT_REQUIRED
        return cls(certificate=certificate.public_bytes(serialization.Encoding.DER), server=server, client=client)


def line(socket: Path, identity: Identity) -> str:
    """The line that tells OpenBao where and with whom to speak."""
    certificate = base64.b64encode(identity.certificate).decode().rstrip("=")
    return f"{_CORE_PROTOCOL}|{_APP_PROTOCOL}|unix|{socket}|grpc|{certificate}\n"


def _self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        key_agreement=False,
        key_encipherment=False,
        content_commitment=False,
        data_encipherment=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        # As long as the process may run: a new process has a new one.
        .not_valid_after(now + datetime.timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
