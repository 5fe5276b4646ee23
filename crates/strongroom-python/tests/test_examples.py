"""The sample daemon, as its README runs it."""

from __future__ import annotations

import http.server
import json
import os
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import self_signed

PROGRAM = Path(__file__).resolve().parents[3] / "examples" / "python" / "console.py"
CLIENTS = ("strongroom", "msal")


@pytest.fixture()
def daemon(sts, tmp_path):
    """One run of the daemon, from its start to its end."""

    def run(client: str, *more: str, config: str = sts.config_file) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(PROGRAM), "--config", config, "--ca-file", sts.ca_file, "--client", client, *more]
        return subprocess.run(command, check=False, text=True, capture_output=True, timeout=120, cwd=tmp_path)

    return run


@pytest.mark.parametrize("second", CLIENTS)
@pytest.mark.parametrize("first", CLIENTS)
def test_the_token_of_one_run_is_found_by_the_next_whichever_client_asks(daemon, sts, tmp_path, first, second):
    runs = [daemon(first), daemon(second)]
    assert [run.returncode for run in runs] == [0, 0], [run.stderr for run in runs]
    assert "token from: identity_provider" in runs[0].stdout and "token from: cache" in runs[1].stdout
    assert all("encrypted: True (host-file)" in run.stdout for run in runs)
    assert all("the API answered 200" in run.stdout and "temperatureC" in run.stdout for run in runs)
    assert sts.requests() == 1
    assert b"AccessToken" not in (tmp_path / "token_cache.bin").read_bytes()


@pytest.mark.parametrize("client", CLIENTS)
def test_what_the_provider_refuses_is_told_without_the_secret(daemon, sts, tmp_path, client):
    config = json.loads(Path(sts.config_file).read_text())
    config["client_secret"] = "a-wrong-secret"
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    run = daemon(client, config=str(file))
    assert run.returncode == 3
    assert run.stderr.startswith("invalid_client: AADSTS7000215"), run.stderr
    assert "a-wrong-secret" not in run.stdout + run.stderr


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """Sends every request on to another path, and remembers who came with a token."""

    def do_GET(self):
        self.server.seen.append((self.path, self.headers["Authorization"]))
        self.send_response(302 if self.path == "/first" else 200)
        self.send_header("Location", "/second")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args):
        pass


def test_the_token_goes_to_the_endpoint_alone_and_only_by_https(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(PROGRAM.parent))
    console = pytest.importorskip("console")
    certificate, key = certificate_of_localhost(tmp_path)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    server.seen = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{server.server_port}"
    try:
        assert console.call(f"https://{address}/first", "t0ken", certificate)[0] == 302
        with pytest.raises(ValueError, match="https"):
            console.call(f"http://{address}/first", "t0ken", certificate)
    finally:
        server.shutdown()
    assert server.seen == [("/first", "Bearer t0ken")]


def certificate_of_localhost(folder):
    import ipaddress

    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = self_signed(key, "localhost", address)
    files = folder / "certificate.pem", folder / "key.pem"
    pem = serialization.Encoding.PEM
    files[0].write_bytes(certificate.public_bytes(pem))
    files[1].write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return str(files[0]), str(files[1])


@pytest.mark.parametrize("client", CLIENTS)
def test_plain_text_is_only_written_where_that_is_asked_for(daemon, sts, tmp_path, client):
    # Nothing can be encrypted where no key can be made.
    keys = tmp_path / "home" / "keys"
    keys.write_text("in the way")
    os.chmod(keys, 0o600)
    run = daemon(client)
    assert run.returncode == 1 and "Persistence" in run.stderr
    assert not (tmp_path / "token_cache.bin").exists()

    run = daemon(client, "--fallback-to-plaintext")
    assert run.returncode == 0 and "encrypted: False (none)" in run.stdout, run.stderr
    assert "Opting in to plain text" in run.stderr
    assert b"AccessToken" in (tmp_path / "token_cache.bin").read_bytes()
