"""The names, signatures and modules of msal_extensions, and what importing them needs."""

from __future__ import annotations

import importlib
import inspect
import sys

import pytest

import strongroom
import strongroom.persistence

ROOT = [
    "FilePersistence",
    "FilePersistenceWithDataProtection",
    "KeychainPersistence",
    "LibsecretPersistence",
    "build_encrypted_persistence",
    "PersistedTokenCache",
    "CrossPlatLock",
    "LockError",
    "__version__",
    "persistence",
    "token_cache",
    "cache_lock",
]
MODULES = {
    "persistence": [
        "BasePersistence",
        "PersistenceError",
        "PersistenceNotFound",
        "PersistenceEncryptionError",
        "PersistenceDecryptionError",
        "_mkdir_p",
        "_auto_hash",
        *ROOT[:5],
    ],
    "token_cache": ["PersistedTokenCache", "CrossPlatLock", "LockError", "PersistenceNotFound"],
    "cache_lock": ["CrossPlatLock", "LockError"],
    "filelock": ["CrossPlatLock", "LockError"],
    "libsecret": ["LibSecretAgent", "trial_run"],
}


@pytest.mark.parametrize("name", ROOT)
def test_the_root_has_the_name(name):
    pytest.importorskip("msal")
    assert getattr(strongroom, name) is not None and name in dir(strongroom)


def test_a_star_gives_the_public_names():
    pytest.importorskip("msal")
    names = {}
    exec("from strongroom import *", names)
    assert {name for name in ROOT if name != "__version__"} <= set(names)


@pytest.mark.parametrize("module, name", [(module, name) for module, names in MODULES.items() for name in names])
def test_the_module_has_the_name(module, name):
    pytest.importorskip("msal")
    assert hasattr(importlib.import_module(f"strongroom.{module}"), name)


@pytest.mark.parametrize("name", ["TokenCache", "FileTokenCache", "PersistenceNotFound", "nonsense"])
def test_names_that_are_not_in_the_root_are_attribute_errors(name):
    with pytest.raises(AttributeError):
        getattr(strongroom, name)


@pytest.mark.skipif(sys.platform != "linux", reason="it is about Linux")
def test_modules_of_other_platforms_fail_to_import_as_they_always_have():
    with pytest.raises(OSError):
        importlib.import_module("strongroom.osx")
    with pytest.raises(AttributeError):
        importlib.import_module("strongroom.windows")


def test_signatures_begin_with_those_of_msal_extensions():
    theirs = pytest.importorskip("msal_extensions")
    for name in [*ROOT[:5], "PersistedTokenCache", "CrossPlatLock"]:
        own = [one for one in _parameters(getattr(strongroom, name)) if one[1] is not inspect.Parameter.KEYWORD_ONLY]
        assert own == _parameters(getattr(theirs, name)), name
    for name in ["PersistenceError", "PersistenceNotFound"]:
        assert _parameters(getattr(strongroom.persistence, name)) == _parameters(getattr(theirs.persistence, name))
    for name in ["save", "load", "time_last_modified", "get_location"]:
        own, other = (getattr(module.persistence.BasePersistence, name) for module in (strongroom, theirs))
        assert _parameters(own) == _parameters(other)
    assert strongroom.persistence.BasePersistence.__abstractmethods__ == theirs.persistence.BasePersistence.__abstractmethods__


def test_importing_needs_neither_msal_nor_portalocker_and_loads_neither(python):
    program = """
import sys
for name in ("msal", "portalocker", "msal_extensions", "gi"):
    sys.modules[name] = None
import strongroom
assert strongroom.filelock.LockError is strongroom.LockError
from strongroom import persistence, cache_lock, filelock, libsecret
with strongroom.CrossPlatLock(sys.argv[1]): pass
assert strongroom.LockError.__mro__[1:3] == (RuntimeError, Exception)
from strongroom import *
print(PersistedTokenCache(FilePersistence(sys.argv[1])))
"""
    assert python(program, "lock").stdout == "PersistedTokenCache(FilePersistence('lock'))\n"
    program = "import sys, strongroom; print(sorted({'msal', 'portalocker', 'requests', 'cryptography'} & set(sys.modules)))"
    assert python(program).stdout.strip() == "[]"


def test_a_look_up_imports_nothing_that_takes_longer_than_itself(python, location):
    program = """
import sys
for name in ("msal", "portalocker"):
    sys.modules[name] = None
before = set(sys.modules)
import strongroom
cache = strongroom.PersistedTokenCache(strongroom.FilePersistence(sys.argv[1]))
assert list(cache.search("AccessToken", target=["s"], query={"client_id": "c"})) == []
slow = {"asyncio", "contextlib", "functools", "hashlib", "importlib", "json", "logging", "re", "threading", "typing", "urllib"}
print(sorted(slow & (set(sys.modules) - before)))
"""
    assert python(program, location).stdout.strip() == "[]"


def test_everything_public_is_explained():
    pytest.importorskip("msal")
    for name in [*ROOT[:8], "SealedFilePersistence"]:
        value = getattr(strongroom, name)
        assert inspect.getdoc(value), name
        if inspect.isclass(value):
            for method, function in inspect.getmembers(value, inspect.isfunction):
                own = function.__module__.startswith("strongroom")
                assert not own or method.startswith("_") or inspect.getdoc(function), f"{name}.{method}"


def test_a_sub_interpreter_is_refused_in_words(python):
    program = """
try:
    import _interpreters as interpreters
    exec_in = lambda code: interpreters.exec(interpreters.create("legacy"), code)
except ImportError:
    import _xxsubinterpreters as interpreters
    exec_in = lambda code: interpreters.run_string(interpreters.create(), code)
import strongroom
exec_in('''
try:
    import strongroom
except ImportError as error:
    assert "sub-interpreter" in str(error), error
else:
    raise AssertionError("it was imported")
''')
print("refused")
"""
    assert "refused" in python(program).stdout


def _parameters(callable):
    parameters = inspect.signature(callable).parameters.values()
    return [(one.name, one.kind, one.default) for one in parameters]
