"""What the tests share: folders, an identity provider, processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import traceback
import urllib.request
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import pytest

COMMAND = os.environ.get("CARGO_BIN_EXE_strongroom") or shutil.which("strongroom")
SKIPS = os.environ.get("STRONGROOM_TEST_SKIPS")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A test that cannot run here says so to ./test, which counts."""
    if report.skipped and SKIPS:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.replace("Skipped: ", "", 1).replace("\n", " ")
        name = report.nodeid.replace("tests/", "", 1).replace(".py", "").replace("/", "::")
        with open(SKIPS, "a", encoding="utf-8") as skips:
            skips.write(f"SKIPPED python::{name}: not run: {reason}\n")


@pytest.fixture()
def location(tmp_path: Path) -> str:
    return str(tmp_path / "token_cache.bin")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test finds a key, a keyring or a setting of the person who runs it."""
    for name in list(os.environ):
        ours = name.startswith(("STRONGROOM_", "AZURE_", "XDG_")) and not name.startswith("STRONGROOM_TEST_")
        network = name.startswith("SSL_CERT_") or name.upper().endswith(("_PROXY", "_CA_BUNDLE"))
        if ours or network or name == "DBUS_SESSION_BUS_ADDRESS":
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("STRONGROOM_STATE_DIR", str(home / "keys"))
    return home


class Sts:
    """The local identity provider, and a client that is registered there."""

    def __init__(self, ready: Dict[str, Any]) -> None:
        self.authority: str = ready["authority"]
        self.client_id: str = ready["client_id"]
        self.client_secret: str = ready["client_secret"]
        self.scope: str = ready["scope"]
        self.ca_file: str = ready["ca_file"]
        self.config_file: str = ready["config_file"]
        self._control: str = ready["control"]

    def requests(self) -> int:
        """How many token requests there were since the last `reset`."""
        return int(self.stats()["token"])

    def stats(self) -> Dict[str, Any]:
        return self._ask("GET", "stats")

    def reset(self) -> None:
        """Nothing is counted, nothing goes wrong, and tokens live as long as usual."""
        self._ask("DELETE", "faults")
        self._ask("PUT", "lifetimes", {})
        self._ask("POST", "reset")

    def fail(self, **fault: Any) -> None:
        """The next requests for tokens go wrong."""
        self._ask("PUT", "faults", {"path": "token", **fault})

    def mend(self) -> None:
        """Nothing goes wrong any more, and what was held is answered."""
        self._ask("DELETE", "faults")

    def issue(self, **lifetimes: int) -> None:
        self._ask("PUT", "lifetimes", lifetimes)

    def wait_until_held(self, requests: int = 1) -> None:
        """Until so many requests wait for `mend`."""
        deadline = time.monotonic() + 60
        while self.stats()["held"] < requests:
            assert time.monotonic() < deadline, "nobody asks for a token"
            time.sleep(0.01)

    def client(self, cache: Any = None, module: Any = None, **kwargs: Any) -> Any:
        """An application of ours."""
        import strongroom

        options = dict(
            client_credential=self.client_secret,
            authority=self.authority,
            instance_discovery=False,
            verify=self.ca_file,
            token_cache=cache,
        )
        options.update(kwargs)
        return (module or strongroom).ConfidentialClientApplication(self.client_id, **options)

    def application(self, cache: Any, **kwargs: Any) -> Any:
        """An application of the real msal."""
        import msal

        return self.client(cache, msal, **kwargs)

    def _ask(self, method: str, what: str, body: Any = None) -> Dict[str, Any]:
        import ssl

        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._control}/{what}", method=method, data=data)
        trust = ssl.create_default_context(cafile=self.ca_file)
        with urllib.request.urlopen(request, context=trust if self._control.startswith("https") else None) as answer:
            body = answer.read()
        return json.loads(body) if body.startswith(b"{") else {}


@pytest.fixture(scope="session")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sts]:
    if not COMMAND:
        pytest.skip("the command strongroom was not built, whose identity provider is needed")
    state = tmp_path_factory.mktemp("sts")
    command = [COMMAND, "sts", "--output", "json", "--state", str(state)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            yield Sts(json.loads(process.stdout.readline()))
        finally:
            process.terminate()


@pytest.fixture()
def idp(provider: Sts) -> Iterator[Sts]:
    """The identity provider, for clients of ours."""
    provider.reset()
    yield provider
    provider.mend()


@pytest.fixture()
def sts(idp: Sts) -> Sts:
    """The same, for clients of the real msal."""
    pytest.importorskip("msal")
    return idp


@pytest.fixture()
def python(tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs a program in a Python of its own."""

    def run(program: str, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", program, *arguments]
        done = subprocess.run(command, check=False, text=True, capture_output=True, timeout=120, cwd=tmp_path)
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture()
def processes(tmp_path: Path) -> Callable[[str, List[List[str]]], List[str]]:
    """Runs a program in several processes at once, and returns what each has printed."""

    def run(program: str, arguments: List[List[str]], environment: Optional[Dict[str, str]] = None) -> List[str]:
        running = [
            subprocess.Popen(
                [sys.executable, "-c", program, *each],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=tmp_path,
                env={**os.environ, **(environment or {})},
            )
            for each in arguments
        ]
        outputs = []
        failures = []
        for process in running:
            output, errors = process.communicate(timeout=300)
            outputs.append(output)
            if process.returncode:
                failures.append(errors)
        assert not failures, "\n".join(failures)
        return outputs

    return run


def in_child(action):
    """Runs `action` in a forked child, and returns whether it came to an end without an exception."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status == 0
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return False


def self_signed(key: Any, name: str, *extensions: Any) -> Any:
    """A certificate of this key, valid for as long as anybody tests."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    subject = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])
    now = datetime.datetime(2024, 1, 1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=36500))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256())


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this platform")


def app_token_event(client_id: str = "client", scope: str = "s1", secret: str = "token", **more: Any) -> Dict[str, Any]:
    """The event of a client-credentials response, as MSAL Python hands it to its cache."""
    return {
        "client_id": client_id,
        "scope": scope.split(),
        "token_endpoint": "https://login.microsoftonline.com/tenant/oauth2/v2.0/token",
        "environment": "login.microsoftonline.com",
        "grant_type": "client_credentials",
        "response": {"access_token": secret, "expires_in": 3600, "token_type": "Bearer"},
        "data": {"scope": scope.split()},
        **more,
    }


def app_token_query(client_id: str = "client") -> Dict[str, Any]:
    """The query by which MSAL Python looks for that token."""
    return {
        "client_id": client_id,
        "environment": "login.microsoftonline.com",
        "realm": "tenant",
        "home_account_id": None,
    }
