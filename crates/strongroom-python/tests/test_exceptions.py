"""Every exception that ``msal_extensions`` can raise, provoked once, and those that take its place here.

By what is called, and where it is provoked if not here:

=====================================  =====================================================================
importing                              ``test_names``: modules of other platforms, sub-interpreters, names
constructors of persistences           ``test_persistence``: no location, other platforms, no key, plain or changed or
                                       somebody else's content; ``test_keyring``: no bus, no service, no answer
``load``, ``save``,                    ``test_persistence``: nothing there, a directory, no permission, no text, a changed
``time_last_modified``                 envelope, another key; here: each damage of an envelope, each unsafe place, a full
                                       disk; ``test_keyring``: nothing in the keyring, a keyring that has gone
``DataBlob``, DPAPI, the keychain      on their own platforms; here: what their errors become
``PersistedTokenCache``                ``test_token_cache``: arguments by position, a lock that is held, a lock file that is
                                       something else, entries that would blind others, assertions of ``remove_*``,
                                       ``find`` is deprecated, JSON that is damaged; ``test_foreign``: a persistence's own;
                                       here: documents of every other kind, a cache that others never leave alone
``CrossPlatLock``                      ``test_lock``: held by another, by itself, no directory; here: a directory in its
                                       place, another user's, a file that is gone when it is released
pickling, copying                      ``test_citizen``
=====================================  =====================================================================
"""

from __future__ import annotations

import base64
import errno
import json
import os
import re
from pathlib import Path

import pytest

import strongroom
from conftest import app_token_event, in_child, needs_fork
from strongroom import _errors
from strongroom.persistence import PersistenceDecryptionError, PersistenceEncryptionError, PersistenceError

pytest.importorskip("msal")
posix_only = pytest.mark.skipif(os.name != "posix", reason="it is about owners and modes of POSIX")
LIBRARY = Path(__file__).parents[2] / "strongroom" / "src"


@pytest.fixture()
def cache(location):
    return strongroom.PersistedTokenCache(strongroom.FilePersistence(location), lock_timeout=5)


def write(location, content):
    with open(location, "wb") as file:
        file.write(content)


def raised_by(call, kind):
    with pytest.raises(kind) as raised:
        call()
    assert type(raised.value) is kind
    return raised.value


def reads(cache):
    return list(cache.search("AccessToken"))


def adds(cache):
    cache.add(app_token_event(secret="not to be shown"))


@pytest.mark.parametrize(
    "content, code",
    [
        (b"[]", "not_a_token_cache"),
        (b'"text"', "not_a_token_cache"),
        (b"\x01\x00\x00\x00\xd0\x8c\x9d\xdf", "not_a_token_cache"),
        (b"\xef\xbb\xbf{}", "byte_order_mark"),
        (b'{"AccessToken":' + b"[" * 1000, "too_deep"),
        (b'{"AccessToken": 5}', "unusable_section"),
    ],
)
def test_a_document_that_is_none_is_a_json_error_and_stays_as_it_is(cache, location, content, code):
    write(location, content)
    error = raised_by(lambda: adds(cache), json.JSONDecodeError)
    assert error.code == code and error.remedy and "not to be shown" not in str(error)
    if code != "unusable_section":  # Of which a reader takes what it can.
        assert raised_by(lambda: reads(cache), json.JSONDecodeError).code == code
    assert open(location, "rb").read() == content


def test_a_file_that_is_far_too_large_is_refused_without_being_read(cache, location):
    with open(location, "wb") as file:
        file.truncate(1 << 40)
    for call in (reads, adds):
        assert raised_by(lambda call=call: call(cache), json.JSONDecodeError).code == "too_large"


@pytest.mark.parametrize(
    "damage, code",
    [
        (lambda sealed: sealed[:50], "truncated"),
        (lambda sealed: sealed[:-1] + bytes([sealed[-1] ^ 1]), "tampered"),
        (lambda sealed: sealed[:8] + b"\x40" + sealed[9:], "later_version"),
        (lambda sealed: sealed[:9] + b"\x40" + sealed[10:], "other_contents"),
        (lambda sealed: sealed[:10] + b"\x40" + sealed[11:], "unsupported_key_source"),
        (lambda sealed: b'{"AccessToken": {}}', "not_sealed"),
    ],
)
def test_an_envelope_that_cannot_be_opened_is_a_decryption_error_and_stays_as_it_is(location, damage, code):
    first = strongroom.PersistedTokenCache(strongroom.SealedFilePersistence(location))
    adds(first)
    sealed = damage(open(location, "rb").read())
    write(location, sealed)

    def opened():
        # Much is found by looking for the key already, which is done here.
        return strongroom.PersistedTokenCache(strongroom.SealedFilePersistence(location))

    calls = [lambda: reads(opened()), lambda: adds(opened()), lambda: opened()._persistence.load()]
    for call in calls:
        error = raised_by(call, PersistenceDecryptionError)
        assert error.code == code and error.remedy and isinstance(error, PersistenceError)
    assert open(location, "rb").read() == sealed


def test_a_key_that_somebody_has_replaced_is_a_decryption_error(location, monkeypatch, tmp_path):
    key = tmp_path / "key"

    def another_key():
        key.write_bytes(b"strongroom-key-1:" + base64.b64encode(os.urandom(32)))
        key.chmod(0o600)

    another_key()
    monkeypatch.setenv("STRONGROOM_KEY_FILE", str(key))
    adds(strongroom.PersistedTokenCache(strongroom.SealedFilePersistence(location)))
    sealed = open(location, "rb").read()
    another_key()
    error = raised_by(lambda: strongroom.SealedFilePersistence(location), PersistenceDecryptionError)
    assert error.code == "unknown_key" and "STRONGROOM_KEY_FILE" in error.remedy and error.filename == location
    assert open(location, "rb").read() == sealed


@posix_only
def test_a_directory_that_everybody_can_write_is_a_permission_error(cache, location):
    os.chmod(os.path.dirname(location), 0o777)
    for call in (lambda: adds(cache), lambda: cache._persistence.save("{}")):
        error = raised_by(call, PermissionError)
        assert (error.code, error.errno) == ("unsafe_directory", errno.EACCES) and "chmod" in error.remedy


@posix_only
def test_what_belongs_to_somebody_else_is_an_error_that_says_so(cache, location):
    elsewhere = os.path.join(os.path.dirname(location), "elsewhere")
    write(elsewhere, b"{}")
    os.symlink(elsewhere, location)
    if os.geteuid() == 0:
        os.lchown(location, 65534, 65534)
        error = raised_by(lambda: adds(cache), OSError)
        assert (error.code, error.errno) == ("unsafe_link", errno.ELOOP)
        os.remove(location)
        for path in (location + ".lockfile", location):
            write(path, b"{}")
            os.chown(path, 65534, 65534)
            error = raised_by(lambda: adds(cache), PermissionError)
            assert error.code == "wrong_owner" and path in str(error)
            os.remove(path)
    else:
        # What is root's cannot be made here, but it is there.
        error = raised_by(lambda: strongroom.FilePersistence("/etc/passwd").save("{}"), PermissionError)
        assert error.code in ("wrong_owner", "permission_denied")


@posix_only
def test_a_link_of_ones_own_is_followed_and_stays(cache, location):
    target = os.path.join(os.path.dirname(location), "target.bin")
    os.symlink(target, location)
    adds(cache)
    assert os.path.islink(location) and "AccessToken" in open(target, encoding="utf-8").read()


@needs_fork
def test_a_disk_that_is_full_is_an_os_error_and_the_file_is_as_before(cache, location):
    import resource

    adds(cache)
    before = open(location, "rb").read()

    def fill():
        limit = len(before) + 100
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        error = raised_by(lambda: cache.add(app_token_event("other", secret="x" * 1000)), OSError)
        assert error.errno == errno.EFBIG and error.code

    assert in_child(fill)
    assert open(location, "rb").read() == before
    assert len(reads(cache)) == 1


def test_a_cache_that_others_never_leave_alone_is_a_blocking_error(location):
    class Restless(strongroom.FilePersistence):
        loads = 0

        def load(self):
            self.loads += 1
            return json.dumps({"Other": {"number": self.loads}})

        def time_last_modified(self):
            return float(self.loads)

    cache = strongroom.PersistedTokenCache(Restless(location))
    error = raised_by(lambda: adds(cache), BlockingIOError)
    assert (error.code, error.errno) == ("contended", errno.EAGAIN)


def test_a_directory_in_the_place_of_a_lock_is_an_error_at_once(cache, location):
    for path in (location + ".lock", location + ".lockfile"):
        os.mkdir(path)
        assert raised_by(lambda: adds(cache), IsADirectoryError).code == "not_a_file"
        os.rmdir(path)
    adds(cache)
    with pytest.raises(IsADirectoryError):
        with strongroom.CrossPlatLock(os.path.dirname(location)):
            pass


def test_a_lock_file_that_is_gone_or_somebody_elses_when_it_is_released_is_no_error(location):
    with strongroom.CrossPlatLock(location):
        os.remove(location)
    assert not os.path.exists(location)
    with strongroom.CrossPlatLock(location):
        os.remove(location)
        write(location, b"1 another")
    assert open(location, "rb").read() == b"1 another", "only what is ours is deleted"


@pytest.mark.parametrize(
    "kind, code, number, expected",
    [
        ("unusable", "dpapi_decryption_failed", -2146893813, PersistenceDecryptionError),
        ("storage", "dpapi_encryption_failed", -2146892987, PersistenceEncryptionError),
        ("unusable", "key_lost", None, PersistenceDecryptionError),
        ("configuration", "no_encryption", None, ValueError),
        ("storage", "no_encryption", None, PersistenceEncryptionError),
        ("locked", "locked", None, strongroom.LockError),
        ("storage", "read_only", None, OSError),
        ("storage", "io_error", errno.ENOSPC, OSError),
        ("storage", "secret_service_timed_out", None, PersistenceError),
        ("internal", "anything", None, PersistenceError),
    ],
)
def test_what_cannot_be_provoked_here_becomes_the_exception_that_it_is_elsewhere(kind, code, number, expected):
    error = _errors.exception(kind, code, "message", "remedy", number)
    assert type(error) is expected
    assert (error.code, error.remedy) == (code, "remedy") and "message; remedy" in str(error)
    if number is not None:
        assert error.errno == number
    if code == "read_only":
        assert error.errno == errno.EROFS


@pytest.mark.skipif(not LIBRARY.is_dir(), reason="the library's source is not here")
def test_the_codes_that_exceptions_are_made_of_are_those_of_the_library():
    source = "".join(path.read_text(encoding="utf-8") for path in sorted(LIBRARY.rglob("*.rs")))
    known = set(re.findall(r'"([a-z_]+)"', source))
    named = {*_errors._SEALED, *_errors._NOT_TO_BE_SEALED, *_errors._DOCUMENT, *_errors._ERRNO}
    assert named <= known, named - known


@pytest.mark.skipif(not LIBRARY.is_dir(), reason="the library's source is not here")
def test_no_remedy_recommends_an_option_of_the_command_line():
    of_a_command = re.compile(r"(the command 'strongroom|'gnome-keyring-daemon) [^']*'")
    option = re.compile(r"(?<![-\w])--[a-z]|force a refresh|'strongroom |persistence '")
    remedies = [text for path in sorted(LIBRARY.rglob("*.rs")) for text in sentences(path) if option.search(text)]
    assert len(remedies) > 15
    for remedy in remedies:
        said = _errors.in_python(remedy.replace("{kind}", "secret-service"))
        assert not option.search(of_a_command.sub("", said)), said


def sentences(path):
    """What a file of the library says, but for what it finds in caches, which only the command shows."""
    if path.name in ("tests.rs", "peers.rs") or "diagnose" in path.parts:
        return []
    source = re.sub(r"(?m)^\s*//.*$", "", path.read_text(encoding="utf-8").split("#[cfg(test)]\nmod tests {")[0])
    texts = re.findall(r'"((?:[^"\\]|\\.)*)"', re.sub(r"'\\?\"'", "", source), re.DOTALL)
    return [re.sub(r"\\\n\s*", "", text) for text in texts if " " in text]


def test_a_remedy_is_said_in_words_of_python(location):
    write(location, b'{"AccessToken": {}}')
    error = raised_by(lambda: strongroom.SealedFilePersistence(location), PersistenceDecryptionError)
    assert "with FilePersistence" in error.remedy and "the command 'strongroom migrate" in error.remedy
    remembered = _errors.of_client("configuration", "c", "m", "fix it; then force a refresh, or wait 5 seconds", None, False, 5)
    assert remembered.remedy == "fix it; then wait 5 seconds"
