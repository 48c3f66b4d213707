"""``cetool serve``: it starts, announces itself, refuses what is unsafe, and stops within seconds."""

from __future__ import annotations

import signal
import socket
import ssl
import sys
from datetime import datetime, timedelta, timezone
from http.client import HTTPSConnection
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.home import Home
from support.serving import running_server, start_server


def test_a_server_answers_at_the_address_that_it_prints(home: Home) -> None:
    with running_server(home) as server:
        assert server.get("/health", token=None).json["status"] == "ok"
        about = server.get("/cetool/1", token=None).json
        assert about["key"]["id"] and about.keys() == {"server", "key", "user"}
        assert server.get("/cetool/1").json["user"] == "admin"


def test_a_url_prefix_is_part_of_every_path(home: Home) -> None:
    with running_server(home, "--url-prefix", "/team") as server:
        assert server.url.endswith("/team")
        assert server.get("/cetool/1").json["links"]["builds"] == "/team/cetool/1/builds"
        server.prefix = ""
        assert server.get("/cetool/1", token=None).status == 404


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_server_with_status_0(home: Home, number: int) -> None:
    server = start_server(home)
    assert server.stop(number) == 0


def test_a_second_server_of_a_data_directory_is_refused(home: Home) -> None:
    with running_server(home) as server:
        done = home.cetool("serve", "--data", server.data, "--bind", "127.0.0.1:0")
    assert done.returncode == 125
    assert f"the data directory {server.data} is in use by another server (process" in done.stderr


def test_a_port_in_use_is_reported(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = f"127.0.0.1:{other.getsockname()[1]}"
        done = home.cetool("serve", "--data", home.path / "server", "--bind", place)
    assert done.returncode == 125
    assert f"cetool: {place} is in use" in done.stderr


def test_without_the_extra_the_hint_says_how_to_install_it(home: Home) -> None:
    code = "import sys; sys.modules['fastapi'] = None; from cetool.__main__ import main; sys.exit(main())"
    done = home.run(sys.executable, "-c", code, "serve")
    assert done.returncode == 125
    assert "the server's packages are not installed (fastapi)" in done.stderr
    assert "pipx install 'cetool[server]'" in done.stderr


def test_other_machines_are_served_with_tls_or_a_proxy_only(home: Home) -> None:
    done = home.cetool("serve", "--data", home.path / "server", "--bind", "0.0.0.0:0")
    assert done.returncode == 125
    assert "unencrypted" in done.stderr and "--tls-cert" in done.stderr


def test_a_certificate_that_cannot_be_used_is_reported(home: Home) -> None:
    wrong = home.write("wrong.pem", "nothing")
    done = home.cetool(
        "serve", "--data", home.path / "server", "--bind", "0.0.0.0:0", "--tls-cert", wrong, "--tls-key", wrong
    )
    assert done.returncode == 125
    assert f"cannot use the certificate {wrong}" in done.stderr


def test_the_key_of_a_server_stays_the_same_and_is_private(home: Home) -> None:
    with running_server(home) as server:
        before = server.get("/cetool/1", token=None).json
        key = server.data / "signing-key.pem"
        assert key.stat().st_mode & 0o777 == 0o600
    with running_server(home) as server:
        after = server.get("/cetool/1", token=None).json
    assert (before["key"], before["server"]) == (after["key"], after["server"])
    key.chmod(0o644)
    done = home.cetool("serve", "--data", home.path / "server", "--bind", "127.0.0.1:0")
    assert done.returncode == 125 and "other users can read it" in done.stderr
    key.chmod(0o600)
    key.write_text("nothing")
    done = home.cetool("serve", "--data", home.path / "server", "--bind", "127.0.0.1:0")
    assert done.returncode == 125 and "it is not a private key" in done.stderr


def test_another_host_is_refused(home: Home) -> None:
    """A page elsewhere may point its name at 127.0.0.1."""
    with running_server(home) as server:
        assert server.get("/health", headers={"Host": "evil.example"}).status == 421
        assert server.get("/health", headers={"Host": f"localhost:{server.port}"}).status == 200
        assert server.get("/health", headers={"Host": "a b"}).status == 400


def certificate(home: Home) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key."""
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, None)
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return (
        home.write("cert.pem", made.public_bytes(Encoding.PEM).decode()),
        home.write("key.pem", private),
    )


def test_a_server_with_a_certificate_speaks_tls(home: Home) -> None:
    public, private = certificate(home)
    context = ssl.create_default_context(cafile=str(public))
    with running_server(home, "--tls-cert", str(public), "--tls-key", str(private)) as server:
        connection = HTTPSConnection("localhost", server.port, context=context, timeout=30)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        connection.close()


def test_a_server_listens_on_ipv6(home: Home) -> None:
    with running_server(home, "--bind", "[::1]:0") as server:
        assert (server.host, server.get("/health").status) == ("::1", 200)
