"""The Secret Service: a real keyring in a session bus of its own, and none at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest

import strongroom
from conftest import app_token_event
from strongroom import libsecret
from strongroom.persistence import PersistenceError, PersistenceNotFound

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is about Linux")

BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy>
</busconfig>"""


@pytest.fixture()
def bus(tmp_path_factory, monkeypatch):
    """A session bus without any service."""
    if not shutil.which("dbus-daemon"):
        pytest.skip("needs dbus-daemon")
    folder = tmp_path_factory.mktemp("bus")
    config = folder / "bus.conf"
    config.write_text(BUS.format(path=folder / "bus"))
    command = ["dbus-daemon", "--nofork", "--nosyslog", "--print-address=1", "--config-file", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as daemon:
        try:
            assert daemon.stdout.readline().startswith(b"unix:")
            monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={folder / 'bus'}")
            for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
                monkeypatch.setenv(name, str(folder))
            yield folder
        finally:
            daemon.kill()


@pytest.fixture()
def keyring(bus, monkeypatch):
    """A keyring that is unlocked."""
    if not shutil.which("gnome-keyring-daemon"):
        pytest.skip("needs gnome-keyring-daemon")
    # A machine that is busy is no reason to fail.
    monkeypatch.setattr(libsecret, "DEADLINE", 60.0)
    command = ["gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets", "--control-directory", str(bus / "control")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as daemon:
        try:
            daemon.stdin.write(b"correct horse")
            daemon.stdin.close()
            deadline = time.monotonic() + 60
            while True:
                try:
                    libsecret.trial_run()
                    break
                except RuntimeError:
                    assert time.monotonic() < deadline and daemon.poll() is None
                    time.sleep(0.05)
            yield daemon
        finally:
            daemon.kill()


def test_what_is_saved_is_loaded_and_the_signal_file_stays_empty(keyring, location):
    persistence = strongroom.LibsecretPersistence(location)
    for call in (persistence.load, persistence.time_last_modified):
        with pytest.raises(PersistenceNotFound):
            call()
    assert not os.path.exists(location)
    try:
        persistence.load()
    except PersistenceNotFound as error:
        assert error.filename is None
    persistence.save('{"a": "ü"}')
    assert os.path.getsize(location) == 0
    assert strongroom.LibsecretPersistence(location).load() == '{"a": "ü"}'
    os.utime(location, (1, 1))
    persistence.save("{}")
    assert persistence.time_last_modified() > 1_000_000_000
    assert persistence.is_encrypted and persistence.protection == "os-store"
    assert strongroom.LibsecretPersistence(location, attributes={"other": "one"}).__class__
    with pytest.raises(PersistenceNotFound):
        strongroom.LibsecretPersistence(location, attributes={"other": "one"}).load()


def test_where_there_is_a_keyring_it_is_chosen_unless_a_sealed_file_is_there(keyring, location, tmp_path):
    pytest.importorskip("msal")
    persistence = strongroom.build_encrypted_persistence(location)
    assert type(persistence) is strongroom.LibsecretPersistence
    cache = strongroom.PersistedTokenCache(persistence)
    cache.add(app_token_event())
    again = strongroom.build_encrypted_persistence(location)
    assert type(again) is strongroom.LibsecretPersistence
    assert len(list(strongroom.PersistedTokenCache(again).search("AccessToken"))) == 1
    sealed = str(tmp_path / "sealed.bin")
    strongroom.SealedFilePersistence(sealed).save("{}")
    assert type(strongroom.build_encrypted_persistence(sealed)) is strongroom.SealedFilePersistence


def test_an_agent_keeps_one_text(keyring):
    agent = libsecret.LibSecretAgent("my schema", {"number": 5}, label="my label", attribute_types={"number": object()})
    assert agent.load() is None and agent.clear() is False
    assert agent.save("one") is True and agent.save("two") is True
    assert libsecret.LibSecretAgent("my schema", {"number": "5"}).load() == "two"
    assert libsecret.LibSecretAgent("my schema", {}).load() is None
    assert agent.clear() is True and agent.load() is None


def test_a_trial_has_an_item_of_its_own(keyring):
    """Two programs that are started at once must not fail each other, nor a program that uses such an item."""
    others = [libsecret.LibSecretAgent("Test Schema", {"attr1": "foo", "attr2": other}) for other in ("bar", "x")]
    for other in others:
        other.save("Test Data of another")
    libsecret.trial_run()
    assert [other.load() for other in others] == ["Test Data of another"] * 2


THEIRS = """
import sys
from msal_extensions import LibsecretPersistence
persistence = LibsecretPersistence(sys.argv[1], attributes={"my": "own"}, label="mine")
if len(sys.argv) > 2:
    persistence.save(sys.argv[2])
else:
    sys.stdout.write(persistence.load())
"""


def test_the_item_of_msal_extensions_is_ours_and_ours_is_its(keyring, location):
    python = os.environ.get("STRONGROOM_TEST_KEYRING_PYTHON")
    if not python:
        pytest.skip("needs a Python with the bindings of libsecret (./test installs them)")
    environment = {**os.environ, "PYTHONPATH": os.environ.get("STRONGROOM_TEST_KEYRING_PYTHONPATH", "")}

    def theirs(*arguments):
        command = [python, "-c", THEIRS, location, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    persistence = strongroom.LibsecretPersistence(location, attributes={"my": "own"}, label="mine")
    persistence.save('{"by": "us"}')
    assert theirs() == '{"by": "us"}'
    theirs('{"by": "them"}')
    assert persistence.load() == '{"by": "them"}'


def test_without_a_bus_or_a_service_it_is_an_error_at_once_and_a_sealed_file_instead(bus, location, monkeypatch):
    for address in (os.environ["DBUS_SESSION_BUS_ADDRESS"], "unix:path=/nowhere"):
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
        with pytest.raises(RuntimeError, match="libsecret did not perform properly"):
            strongroom.LibsecretPersistence(location)
        assert not os.path.exists(location)
        assert type(strongroom.build_encrypted_persistence(location)) is strongroom.SealedFilePersistence


def test_a_bus_that_never_answers_is_given_up(location, monkeypatch, tmp_path):
    monkeypatch.setattr(libsecret, "DEADLINE", 0.3)
    path = str(tmp_path / "bus")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        silent.listen()
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={path}")
        with pytest.raises(RuntimeError) as raised:
            strongroom.LibsecretPersistence(location)
    assert raised.value.__cause__.code == "secret_service_timed_out"


def test_the_item_is_named_as_msal_extensions_names_it(keyring, location):
    strongroom.LibsecretPersistence(location).save("{}")
    schema = hashlib.sha256(location.encode()).hexdigest()
    assert libsecret.LibSecretAgent(schema, {}).load() == "{}"
    assert json.loads(libsecret.LibSecretAgent(schema, {}).load()) == {}


def test_a_keyring_that_has_gone_is_an_error_of_each_method(keyring, location):
    """And no save that seems to have succeeded."""
    pytest.importorskip("msal")
    persistence = strongroom.LibsecretPersistence(location)
    cache = strongroom.PersistedTokenCache(persistence)
    cache.add(app_token_event())
    another = strongroom.PersistedTokenCache(persistence)
    keyring.kill()
    keyring.wait()
    calls = [
        persistence.load,
        lambda: persistence.save("{}"),
        lambda: list(another.search("AccessToken")),
        lambda: cache.add(app_token_event("other")),
    ]
    for call in calls:
        with pytest.raises(PersistenceError) as raised:
            call()
        assert raised.value.code == "no_secret_service" and raised.value.remedy
