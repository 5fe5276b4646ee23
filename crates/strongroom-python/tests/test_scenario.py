"""The scenario that everything serves: one run signs in, and the next run finds the token."""

from __future__ import annotations

import json
import os
import stat

import pytest

import strongroom

pytest.importorskip("msal")

DAEMON = """
import json, sys
import msal
import strongroom as msal_extensions

location, authority, client_id, secret, scope, ca_file, kind = sys.argv[1:]
if kind == "file":
    persistence = msal_extensions.FilePersistence(location)
else:
    persistence = msal_extensions.build_encrypted_persistence(location)
cache = msal_extensions.PersistedTokenCache(persistence)
app = msal.ConfidentialClientApplication(
    client_id, client_credential=secret, authority=authority, instance_discovery=False, verify=ca_file, token_cache=cache
)
result = app.acquire_token_for_client([scope])
print(json.dumps({"source": result.get("token_source"), "token": result.get("access_token"), "error": result.get("error")}))
"""


@pytest.mark.parametrize("kind", ["file", "encrypted"])
def test_the_runs_of_a_daemon_ask_for_one_token(sts, python, location, kind):
    arguments = [location, sts.authority, sts.client_id, sts.client_secret, sts.scope, sts.ca_file, kind]
    first, *later = (json.loads(python(DAEMON, *arguments).stdout) for _ in range(3))
    assert first["source"] == "identity_provider" and first["token"]
    assert later == [{**first, "source": "cache"}] * 2
    assert sts.requests() == 1
    assert stat.S_IMODE(os.stat(location).st_mode) == 0o600
    plain = first["token"].encode() in open(location, "rb").read()
    assert plain == (kind == "file")


def test_the_real_msal_extensions_finds_what_was_stored_and_the_other_way_round(sts, location):
    msal_extensions = pytest.importorskip("msal_extensions")
    ours = strongroom.PersistedTokenCache(strongroom.FilePersistence(location))
    token = sts.application(ours).acquire_token_for_client([sts.scope])["access_token"]
    theirs = msal_extensions.PersistedTokenCache(msal_extensions.FilePersistence(location))
    found = sts.application(theirs).acquire_token_for_client([sts.scope])
    assert found["token_source"] == "cache" and found["access_token"] == token

    os.remove(location)
    theirs = msal_extensions.PersistedTokenCache(msal_extensions.FilePersistence(location))
    token = sts.application(theirs).acquire_token_for_client([sts.scope])["access_token"]
    found = sts.application(ours).acquire_token_for_client([sts.scope])
    assert found["token_source"] == "cache" and found["access_token"] == token


def test_a_token_costs_one_write_and_a_hit_costs_none(sts, location):
    cache = strongroom.PersistedTokenCache(strongroom.FilePersistence(location))
    app = sts.application(cache)
    app.acquire_token_for_client([sts.scope])
    written = os.stat(location)
    document = json.load(open(location, encoding="utf-8"))
    assert list(document) == ["AccessToken", "AppMetadata"]
    for _ in range(3):
        assert app.acquire_token_for_client([sts.scope])["token_source"] == "cache"
    assert os.stat(location) == written or os.stat(location).st_mtime_ns == written.st_mtime_ns


def test_the_tokens_of_a_client_are_removed_with_the_extended_ones(sts, location):
    cache = strongroom.PersistedTokenCache(strongroom.FilePersistence(location))
    app = sts.application(cache)
    app.acquire_token_for_client([sts.scope])
    assert json.load(open(location, encoding="utf-8"))["AccessToken"]
    app.remove_tokens_for_client()
    assert not json.load(open(location, encoding="utf-8")).get("AccessToken")
