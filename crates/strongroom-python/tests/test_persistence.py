"""Where a cache is kept: what is saved, what is refused, and with which exceptions."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading

import pytest

import strongroom
from conftest import in_child, needs_fork
from strongroom.persistence import (
    BasePersistence,
    PersistenceDecryptionError,
    PersistenceEncryptionError,
    PersistenceError,
    PersistenceNotFound,
)

KINDS = [strongroom.FilePersistence, strongroom.SealedFilePersistence]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_loaded(kind, location):
    persistence = kind(location)
    for content in ["{}", '{"AccessToken": {}}', "", "ünïcödé"]:
        persistence.save(content)
        assert kind(location).load() == content
    assert persistence.time_last_modified() == os.path.getmtime(location)
    assert persistence.get_location() == location
    assert isinstance(persistence, BasePersistence)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_not_found(kind, location):
    persistence = kind(location)
    for call in (persistence.load, persistence.time_last_modified):
        with pytest.raises(PersistenceNotFound) as raised:
            call()
        error = raised.value
        assert (error.errno, error.filename) == (errno.ENOENT, location)
        assert not isinstance(error, FileNotFoundError)
        assert "save()" in error.strerror
    assert not os.path.exists(location)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_location_is_a_value_error(kind):
    for location in ("", None):
        with pytest.raises(ValueError, match="Requires a file path"):
            kind(location)
    with pytest.raises(ValueError):
        strongroom.build_encrypted_persistence("")


def test_the_home_directory_is_expanded_and_a_variable_is_not(home, monkeypatch, tmp_path):
    assert strongroom.FilePersistence("~/cache.bin").get_location() == str(home / "cache.bin")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOLDER", "elsewhere")
    assert strongroom.FilePersistence("$FOLDER/cache.bin").get_location() == "$FOLDER/cache.bin"
    assert os.path.isdir("$FOLDER")


def test_the_directory_is_made_at_construction_for_its_owner_alone(tmp_path):
    strongroom.FilePersistence(str(tmp_path / "one" / "two" / "cache.bin"))
    for folder in (tmp_path / "one", tmp_path / "one" / "two"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        strongroom.FilePersistence(str(tmp_path / "file" / "cache.bin"))


def test_a_file_that_others_could_read_is_tightened(location):
    persistence = strongroom.FilePersistence(location)
    with open(location, "w", encoding="utf-8") as file:
        file.write("{}")
    os.chmod(location, 0o644)
    persistence.save('{"AccessToken": {}}')
    assert stat.S_IMODE(os.stat(location).st_mode) == 0o600


def test_a_touch_makes_an_empty_file_and_sets_its_time(location):
    persistence = strongroom.FilePersistence(location)
    persistence.touch()
    assert stat.S_IMODE(os.stat(location).st_mode) == 0o600 and persistence.load() == ""
    os.utime(location, (1, 1))
    persistence.touch()
    assert persistence.time_last_modified() > 1_000_000_000


def test_a_directory_in_its_place_is_an_os_error(tmp_path):
    persistence = strongroom.FilePersistence(str(tmp_path))
    for call in (persistence.load, lambda: persistence.save("{}")):
        with pytest.raises(IsADirectoryError) as raised:
            call()
        assert raised.value.code == "not_a_file"


@needs_fork
def test_what_may_not_be_read_is_a_permission_error(location):
    persistence = strongroom.FilePersistence(location)
    persistence.save("{}")

    def read():
        if os.geteuid() == 0:  # Who may read everything becomes somebody who may not.
            os.setgid(65534)
            os.setuid(65534)
        for call in (persistence.load, lambda: persistence.save("{}")):
            with pytest.raises(PermissionError) as raised:
                call()
            assert raised.value.errno == errno.EACCES and raised.value.remedy

    os.chmod(os.path.dirname(location), 0)
    try:
        assert in_child(read)
    finally:
        os.chmod(os.path.dirname(location), 0o700)


def test_bytes_that_are_no_text_are_a_unicode_error_that_does_not_quote_them(location):
    with open(location, "wb") as file:
        file.write(b"secret \xff")
    with pytest.raises(UnicodeDecodeError) as raised:
        strongroom.FilePersistence(location).load()
    assert "secret" not in repr(raised.value)


def test_a_save_replaces_whatever_is_there_and_takes_no_lock(location):
    persistence = strongroom.FilePersistence(location)
    with open(location, "wb") as file:
        file.write(b"no JSON")
    with strongroom.CrossPlatLock(location + ".lockfile", timeout=1):
        persistence.save("anything")
    assert persistence.load() == "anything"


def test_a_reader_never_sees_half_a_save(location):
    persistence = strongroom.FilePersistence(location)
    contents = {"a" * 100_000, "b" * 200_000}
    persistence.save("a" * 100_000)
    stop = threading.Event()

    def save():
        while not stop.is_set():
            for content in contents:
                persistence.save(content)

    writer = threading.Thread(target=save)
    writer.start()
    try:
        for _ in range(200):
            assert persistence.load() in contents
    finally:
        stop.set()
        writer.join()


def test_the_exceptions_are_those_of_msal_extensions():
    theirs = pytest.importorskip("msal_extensions.persistence")
    for name in ["PersistenceError", "PersistenceNotFound", "PersistenceEncryptionError", "PersistenceDecryptionError"]:
        own, other = getattr(strongroom.persistence, name), getattr(theirs, name)
        assert issubclass(own, OSError)
        for arguments in [(), (5,), (5, "message"), (5, "message", "location"), (None, "message", "location")]:
            one, another = own(*arguments), other(*arguments)
            for attribute in ("errno", "strerror", "filename", "args"):
                assert getattr(one, attribute) == getattr(another, attribute), (name, arguments, attribute)
            assert str(one) == str(another)
            assert not hasattr(one, "message") and not hasattr(one, "location") and not hasattr(one, "err_no")


def test_an_abstract_persistence_cannot_be_made():
    with pytest.raises(TypeError):
        BasePersistence()  # type: ignore[abstract]
    assert BasePersistence.is_encrypted is False
    assert not strongroom.FilePersistence.is_encrypted
    for kind in ("SealedFilePersistence", "LibsecretPersistence", "KeychainPersistence", "FilePersistenceWithDataProtection"):
        assert getattr(strongroom, kind).is_encrypted is True


@pytest.mark.skipif(sys.platform != "linux", reason="it is about Linux")
def test_persistences_of_other_platforms_fail_before_anything_is_made(tmp_path):
    location = str(tmp_path / "folder" / "cache.bin")
    with pytest.raises(RuntimeError):
        strongroom.FilePersistenceWithDataProtection(location)
    with pytest.raises(OSError):
        strongroom.KeychainPersistence(location)
    assert not os.path.exists(os.path.dirname(location))


class TestSealed:
    def test_no_plain_text_and_no_other_name_is_in_the_file(self, location):
        persistence = strongroom.SealedFilePersistence(location)
        persistence.save('{"AccessToken": {}}')
        assert b"AccessToken" not in open(location, "rb").read()
        assert persistence.protection == "host-file" and persistence.is_encrypted
        assert any("host" in reason for reason in persistence.reasons)

    def test_a_plain_cache_is_refused_and_left_alone(self, location):
        strongroom.FilePersistence(location).save('{"AccessToken": {}}')
        for make in (strongroom.SealedFilePersistence, strongroom.build_encrypted_persistence):
            with pytest.raises(PersistenceDecryptionError) as raised:
                make(location)
            assert raised.value.code == "not_sealed" and raised.value.filename == location
        assert strongroom.FilePersistence(location).load() == '{"AccessToken": {}}'

    def test_a_changed_file_is_a_decryption_error_and_is_left_alone(self, location):
        persistence = strongroom.SealedFilePersistence(location)
        persistence.save("{}")
        sealed = bytearray(open(location, "rb").read())
        sealed[-1] ^= 1
        with open(location, "wb") as file:
            file.write(sealed)
        for call in (persistence.load, lambda: persistence.save("{}")):
            with pytest.raises(PersistenceDecryptionError) as raised:
                call()
            assert raised.value.code == "tampered" and raised.value.filename == location
        assert open(location, "rb").read() == sealed

    def test_another_key_is_a_decryption_error(self, location, monkeypatch, tmp_path):
        key = tmp_path / "key"
        strongroom.SealedFilePersistence(location).save("{}")
        host_key = next((tmp_path / "home" / "keys").glob("host.key"))
        host_key.rename(key)
        (tmp_path / "home" / "keys").chmod(0o500)
        monkeypatch.setenv("STRONGROOM_KEY", "no key at all")
        with pytest.raises(PersistenceError):
            strongroom.SealedFilePersistence(location)

    def test_where_no_key_can_be_made_it_is_an_encryption_error_and_nothing_is_left(self, location, monkeypatch, tmp_path):
        (tmp_path / "no-folder").write_text("")
        monkeypatch.setenv("STRONGROOM_STATE_DIR", str(tmp_path / "no-folder"))
        with pytest.raises(PersistenceEncryptionError) as raised:
            strongroom.build_encrypted_persistence(location)
        assert raised.value.remedy
        assert not os.path.exists(location)

    @pytest.mark.parametrize("content", [None, "", "{}", " {}\n"])
    def test_nothing_and_next_to_nothing_become_a_sealed_file_for_good(self, location, content):
        if content is not None:
            with open(location, "w", encoding="utf-8") as file:
                file.write(content)
        first = strongroom.build_encrypted_persistence(location)
        assert type(first) is strongroom.SealedFilePersistence
        first.save('{"a": 1}')
        assert type(strongroom.build_encrypted_persistence(location)) is strongroom.SealedFilePersistence
        assert strongroom.build_encrypted_persistence(location).load() == '{"a": 1}'

    def test_the_fallback_that_every_user_copies_goes_on_as_before(self, location):
        def build_persistence(location, fallback_to_plaintext=False):
            try:
                return strongroom.build_encrypted_persistence(location)
            except:  # noqa: E722
                if not fallback_to_plaintext:
                    raise
                return strongroom.FilePersistence(location)

        strongroom.FilePersistence(location).save('{"a": 1}')
        with pytest.raises(PersistenceDecryptionError):
            build_persistence(location)
        assert build_persistence(location, fallback_to_plaintext=True).load() == '{"a": 1}'

    def test_the_command_opens_it(self, location):
        from conftest import COMMAND

        if not COMMAND:
            pytest.skip("the command strongroom was not built")
        strongroom.build_encrypted_persistence(location).save("{}")
        done = subprocess.run([COMMAND, "inspect", "--cache", location], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_a_path_may_be_an_object(tmp_path):
    at = tmp_path / "folder" / "cache"
    for kind in (strongroom.FilePersistence, strongroom.SealedFilePersistence, strongroom.build_encrypted_persistence):
        assert kind(at).get_location() == str(at)
    for path in (str(at), at):
        with pytest.raises(TypeError, match=r"FilePersistence\("):
            strongroom.PersistedTokenCache(path)


def test_an_exception_is_shown_without_a_number_that_it_has_not(tmp_path):
    plain = tmp_path / "cache"
    plain.write_text('{"AccessToken": {}}')
    with pytest.raises(PersistenceDecryptionError) as raised:
        strongroom.SealedFilePersistence(plain)
    error = raised.value
    assert str(error) == error.strerror and error.errno is None and error.filename == str(plain)
    with pytest.raises(IsADirectoryError) as raised:
        strongroom.FilePersistence(tmp_path).load()
    assert raised.value.filename == str(tmp_path)
