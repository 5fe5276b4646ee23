"""Which languages share the cache: one token for Python and for Node, and Java's lock."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import strongroom
from conftest import app_token_event, app_token_query

msal = pytest.importorskip("msal")
AT = "AccessToken"


def cache_of(location, dialect, **options):
    return strongroom.PersistedTokenCache(strongroom.FilePersistence(location), dialect=dialect, **options)


def stored(location):
    with open(location, encoding="utf-8") as file:
        return json.load(file)[AT]


def test_an_application_s_token_is_stored_as_python_and_as_node_find_it(location):
    cache = cache_of(location, "python+node")
    cache.add(app_token_event())
    entries = stored(location)
    assert sorted(entry["environment"] for entry in entries.values()) == [
        "login.microsoftonline.com",
        "login.windows.net",
    ]
    assert [entry["home_account_id"] for entry in entries.values()] == [None, ""]
    assert len({entry["secret"] for entry in entries.values()}) == 1
    # The real MSAL finds its own.
    theirs = msal.SerializableTokenCache()
    with open(location, encoding="utf-8") as file:
        theirs.deserialize(file.read())
    (found,) = theirs.search(AT, target=["s1"], query=app_token_query())
    assert found["secret"] == next(iter(entries.values()))["secret"]


def test_two_entries_of_one_token_are_shown_as_one_and_removed_as_one(location):
    cache = cache_of(location, "python+node")
    cache.add(app_token_event())
    for query in (app_token_query(), {"home_account_id": None}, {}):
        (found,) = cache.search(AT, query=query)
        assert found["environment"] == "login.microsoftonline.com"
        assert found["home_account_id"] is None
    cache.remove_at(found)
    assert stored(location) == {}
    assert list(cache.search(AT)) == []


def test_a_token_that_is_renewed_is_renewed_for_both(location):
    cache_of(location, None).add(app_token_event())
    assert len(stored(location)) == 1
    cache = cache_of(location, "node+python")
    event = app_token_event()
    event["response"]["access_token"] = "renewed"
    cache.add(event)
    assert [entry["secret"] for entry in stored(location).values()] == ["renewed", "renewed"]


@pytest.mark.parametrize("dialect", ["", "rust", "python,node", "python+node+dotnet"])
def test_what_cannot_be_is_refused_with_the_reason(location, dialect):
    with pytest.raises(ValueError, match="no language|two tokens for one request"):
        cache_of(location, dialect)


@pytest.mark.skipif(sys.platform == "win32", reason="fcntl locks are those of Unix")
def test_java_s_lock_is_waited_for(location, tmp_path):
    holder = """
import fcntl, sys
with open(sys.argv[1], "w") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("held", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", holder, str(tmp_path / ".lockfile")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as java:
        assert java.stdout is not None and java.stdout.readline() == b"held\n"
        with pytest.raises(strongroom.LockError, match="lockfile"):
            cache_of(location, "python+java", lock_timeout=0.1).add(app_token_event())
        cache_of(location, "python", lock_timeout=0.1).add(app_token_event())
        java.kill()
    cache_of(location, "python+java", lock_timeout=0.1).add(app_token_event())
    assert not (tmp_path / ".lockfile").exists()
