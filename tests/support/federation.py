"""Homeservers that know each other: two Synapses on loopback that federate over TLS."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from relay.demo.homeserver import Homeserver, free_port
from relay.domain.jsontext import Json
from tests.support.homeserver import ForkedHomeserver


def federating(directory: Path, settings: Json | None = None, *, host: str = "localhost") -> Homeserver:
    """A homeserver that others reach under its name, `host` and a port of its own. It asks them again at once.

    `settings` are filled in; what is changed in them holds from its next start on.
    """
    directory.mkdir()
    certificate, key = _certificate(directory)
    clients, servers = free_port(), free_port()
    settings = {} if settings is None else settings
    settings |= {
        "listeners": [_listener(clients, "client"), _listener(servers, "federation") | {"tls": True}],
        "tls_certificate_path": str(certificate),
        "tls_private_key_path": str(key),
        "federation_verify_certificates": False,
        "federation_domain_whitelist": None,
        "federation_sender_instances": None,
        "ip_range_blacklist": [],
        "federation": {
            "destination_min_retry_interval": 100,
            "destination_max_retry_interval": 200,
            "destination_retry_multiplier": 1,
            "max_short_retries": 1,
            "max_short_retry_delay": "1s",
            "max_long_retries": 1,
            "max_long_retry_delay": "1s",
        },
    }
    return ForkedHomeserver(directory, port=clients, server_name=f"{host}:{servers}", settings=settings)


def _listener(port: int, resource: str) -> Json:
    return {
        "port": port,
        "type": "http",
        "bind_addresses": ["127.0.0.1"],
        "resources": [{"names": [resource], "compress": False}],
    }


def _certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate that its owner has signed, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    certificate_path, key_path = directory / "certificate.pem", directory / "key.pem"
    certificate_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key_path.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    return certificate_path, key_path
