"""Our client in place of `msal.ConfidentialClientApplication`."""

from __future__ import annotations

import errno
import asyncio
import base64
import copy
import inspect
import json
import os
import pickle
import subprocess
import sys
import threading
import time

import pytest
from conftest import app_token_event, in_child, needs_fork, self_signed

import strongroom
from strongroom import aio

WITHOUT = """
import importlib.abc, sys
class Nothing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("msal", "msal_extensions", "requests", "urllib3", "cryptography", "jwt", "portalocker"):
            raise ImportError(name + " is not there")
sys.meta_path.insert(0, Nothing())
"""

DAEMON = """
import json, sys
import strongroom
location, authority, client_id, secret, scope, ca_file = sys.argv[1:]
app = strongroom.ConfidentialClientApplication(
    client_id, client_credential=secret, authority=authority, instance_discovery=False, verify=ca_file,
    token_cache=strongroom.FilePersistence(location),
)
result = app.acquire_token_silent([scope], account=None) or app.acquire_token_for_client([scope])
print(json.dumps({**result, "modules": sorted({name.split(".")[0] for name in sys.modules})}))
"""


def change_token(location, **times):
    """Sets times of the one token in a document, in seconds from now."""
    document = json.load(open(location, encoding="utf-8"))
    (token,) = document["AccessToken"].values()
    now = int(time.time())
    token.update({name: str(now + seconds) for name, seconds in times.items()})
    strongroom.FilePersistence(location).save(json.dumps(document))


def arguments(idp, location):
    return [location, idp.authority, idp.client_id, idp.client_secret, idp.scope, idp.ca_file]


def shape(result):
    """A result without what differs from one request to the next."""
    differing = {"access_token", "correlation_id", "trace_id", "timestamp"}
    shown = {key: "..." if key in differing else value for key, value in result.items()}
    for key in ("expires_in", "ext_expires_in", "refresh_on"):
        if key in shown:
            assert type(shown[key]) is int
            shown[key] = round(shown[key], -2)
    if "error_description" in shown:
        shown["error_description"] = shown["error_description"].split(" Trace ID")[0]
    return shown


@pytest.mark.parametrize("persistence", ["FilePersistence", "SealedFilePersistence"])
def test_a_token_from_the_cache_imports_nothing_heavy(idp, python, location, persistence):
    light = DAEMON.replace("import json, sys", "import sys").replace("print(json.dumps({**result,", "print(({**result,")
    light = light.replace("FilePersistence", persistence)
    python(light, *arguments(idp, location))
    warm = eval(python(light, *arguments(idp, location)).stdout)
    assert warm["token_source"] == "cache"
    started_with = python("import sys; print(*{name.split('.')[0] for name in sys.modules})").stdout.split()
    more = set(warm["modules"]) - set(started_with)
    assert more <= {"strongroom", "atexit", "_weakref", "errno", "__future__", "importlib", "types", "warnings", "_imp"}, more


# Results


def test_the_first_call_asks_and_the_second_is_answered_from_memory(idp):
    app = idp.client()
    first = app.acquire_token_for_client([idp.scope])
    assert {"access_token", "token_type", "expires_in", "token_source"} <= first.keys()
    assert first["token_source"] == "identity_provider" and type(first["expires_in"]) is int
    second = app.acquire_token_for_client([idp.scope])
    assert second.keys() == {"access_token", "token_type", "expires_in", "token_source"}
    assert second["token_source"] == "cache" and second["access_token"] == first["access_token"]
    second["access_token"] = "changed by its owner"
    assert app.acquire_token_for_client([idp.scope])["access_token"] == first["access_token"]
    assert idp.requests() == 1


def test_results_are_those_of_msal_key_by_key(sts):
    for lifetimes in ({}, {"expires_in": 7200, "refresh_in": 3600}):
        sts.issue(**lifetimes)
        ours, theirs = sts.client(), sts.application(None)
        for _ in ("asked for", "cached"):
            mine, yours = (app.acquire_token_for_client([sts.scope]) for app in (ours, theirs))
            assert shape(mine) == shape(yours)


def test_fields_of_the_provider_come_through_but_private_ones_and_refresh_in(sts):
    body = {
        "access_token": "from the fault", "token_type": "Bearer", "expires_in": "3599", "refresh_in": 1800, "_private": 1,
        "own": {"nested": [1, None, "ü"]},
    }
    results = []
    for make in (sts.client, sts.application):
        app = make(None)
        sts.fail(status=200, body=json.dumps(body), count=1)
        results.append(app.acquire_token_for_client([sts.scope]))
        results.append(app.acquire_token_for_client([sts.scope]))
    mine, mine_cached, yours, yours_cached = results
    assert "refresh_in" not in mine and "_private" not in mine and mine["own"] == body["own"]
    mine["refresh_on"] -= mine["refresh_on"] - yours["refresh_on"]
    assert {**mine, "expires_in": 0} == {**yours, "expires_in": 0} and mine["expires_in"] == 3599
    assert mine_cached.keys() == yours_cached.keys()


def test_a_wrong_secret_is_a_dictionary_as_that_of_msal_without_the_secret(sts):
    ours = sts.client(client_credential="not the secret")
    theirs = sts.application(None, client_credential="not the secret")
    mine, yours = ours.acquire_token_for_client([sts.scope]), theirs.acquire_token_for_client([sts.scope])
    assert shape(mine) == shape(yours)
    assert mine["error"] == "invalid_client" and mine["error_codes"] == [7000215]
    assert "not the secret" not in str(mine)


def test_a_secret_that_the_provider_echoes_is_not_shown(idp):
    secret = "s3cret with+signs"
    echo = {"error": "invalid_client", "error_description": f"wrong: {secret}", "more": [{"deep": secret}]}
    app = idp.client(client_credential=secret)
    idp.fail(status=401, body=json.dumps(echo), count=1)
    result = app.acquire_token_for_client([idp.scope])
    assert result["error"] == "invalid_client" and result["more"] == [{"deep": "[redacted]"}]
    assert secret not in str(result)


def test_whoever_is_asked_to_wait_waits_and_says_the_same_again(idp, location):
    app = idp.client(strongroom.FilePersistence(location))
    busy = {"error": "temporarily_unavailable", "error_description": "busy", "own": 1}
    idp.fail(status=429, headers={"Retry-After": "60"}, body=json.dumps(busy), count=1)
    assert app.acquire_token_for_client([idp.scope]) == busy
    del busy["own"]  # What is remembered has the fields that are known alone.
    assert app.acquire_token_for_client([idp.scope]) == busy
    another = idp.client(strongroom.FilePersistence(location))
    assert another.acquire_token_for_client([idp.scope]) == busy
    assert idp.requests() == 1


def test_a_provider_that_fails_is_an_exception_which_is_remembered(idp):
    app = idp.client()
    idp.fail(status=503, headers={"Retry-After": "60"}, body="<html>", count=1)
    for _ in range(2):
        with pytest.raises(strongroom.MsalServiceError, match="^HTTP Error: 503$") as raised:
            app.acquire_token_for_client([idp.scope])
        assert raised.value.retry_after in (59, 60) and isinstance(raised.value, strongroom.MsalError)
        assert idp.client_secret not in repr(raised.value) + str(raised.value.__dict__)
    assert idp.requests() == 1


def test_a_program_that_catches_the_exception_of_msal_catches_ours(sts):
    import msal

    app = sts.client()
    sts.fail(status=500, headers={"Retry-After": "60"}, count=1)
    with pytest.raises(msal.exceptions.MsalServiceError) as raised:
        app.acquire_token_for_client([sts.scope])
    assert isinstance(raised.value, strongroom.MsalServiceError)
    again = pickle.loads(pickle.dumps(raised.value))
    assert type(again) is type(raised.value) and str(again) == "HTTP Error: 500" and again.retry_after == 60


def test_what_is_no_json_is_an_exception(idp):
    for status in (200, 400):
        app = idp.client(token_cache=None)
        idp.fail(status=status, body="<html>sign in</html>", count=1)
        with pytest.raises(json.JSONDecodeError):
            app.acquire_token_for_client([idp.scope])


def test_a_provider_out_of_reach_is_a_connection_error(idp):
    app = strongroom.ConfidentialClientApplication(
        "id", "s3cret", "https://127.0.0.1:9/tenant", instance_discovery=False, timeout=(3, 3)
    )
    with pytest.raises(ConnectionError) as raised:
        app.acquire_token_for_client(["s"])
    assert raised.value.code == "connection_failed" and "s3cret" not in str(raised.value)


def test_a_provider_that_is_too_slow_is_a_timeout(idp):
    app = idp.client(timeout=0.2)
    idp.fail(hold=True)
    with pytest.raises(TimeoutError):
        app.acquire_token_for_client([idp.scope])


def test_an_untrusted_certificate_is_a_connection_error(idp):
    app = idp.client(verify=True)
    with pytest.raises(ConnectionError) as raised:
        app.acquire_token_for_client([idp.scope])
    assert raised.value.code == "tls_failed"


def test_trust_may_come_from_the_variable_of_requests(idp, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", idp.ca_file)
    assert "access_token" in idp.client(verify=True).acquire_token_for_client([idp.scope])


def test_a_tenant_that_is_not_there_is_a_value_error(idp):
    base = idp.authority.rsplit("/", 1)[0]
    app = idp.client(authority=f"{base}/00000000-0000-0000-0000-00000000dead")
    with pytest.raises(ValueError, match="Unable to get authority configuration"):
        app.acquire_token_for_client([idp.scope])


# Misuse


@pytest.mark.parametrize("scopes", ["a/.default", {"a/.default"}, ("a/.default",), None])
def test_scopes_are_a_list(idp, scopes):
    with pytest.raises(AssertionError):
        idp.client().acquire_token_for_client(scopes)
    with pytest.raises(AssertionError):
        idp.client().acquire_token_silent(scopes, None)


def test_what_cannot_be_asked_for_is_refused(idp):
    app = idp.client()
    scopes = [idp.scope]
    for error, call in (
        (ValueError, lambda: app.acquire_token_for_client(scopes, force_refresh=True)),
        (ValueError, lambda: app.acquire_token_for_client(scopes, data={"a": "b"})),
        (TypeError, lambda: app.acquire_token_for_client(scopes, unheard_of=1)),
        (ValueError, lambda: app.acquire_token_for_client(scopes, fmi_path=1)),
        (ValueError, lambda: app.acquire_token_for_client(scopes, forwarded_client_claims="[]")),
        (ValueError, lambda: app.acquire_token_for_client(scopes, forwarded_client_claims={"a": 1})),
        (ValueError, lambda: app.acquire_token_for_client([])),
        (ValueError, lambda: app.acquire_token_for_client(["openid"])),
        (TypeError, lambda: app.acquire_token_for_client([1])),
        (ValueError, lambda: app.acquire_token_silent(scopes, None, auth_scheme=object())),
        (json.JSONDecodeError, lambda: app.acquire_token_for_client(scopes, claims_challenge="{")),
    ):
        with pytest.raises(error):
            call()
    assert app.acquire_token_for_client(scopes, force_refresh=False, data=None)["token_source"] == "identity_provider"
    assert idp.requests() == 1


REFUSED = [
    ({"authority": "http://login.microsoftonline.com/t"}, "https"),
    ({"authority": "https://login.microsoftonline.com"}, "tenant"),
    ({"authority": None}, "tenant"),
    ({"authority": "https://login.microsoftonline.com/organizations"}, "tenant"),
    ({"authority": "https://adfs.example/adfs"}, "PersistedTokenCache"),
    ({"authority": "https://c.b2clogin.com/t/b2c_1_policy"}, "PersistedTokenCache"),
    ({"authority": "https://c.ciamlogin.com/t"}, "PersistedTokenCache"),
    ({"authority": None, "oidc_authority": "https://a.example"}, "PersistedTokenCache"),
    ({"oidc_authority": "https://a.example"}, "both authority and oidc_authority"),
    ({"client_credential": None}, "client_credential"),
    ({"client_credential": {}}, "client_credential"),
    ({"client_credential": 7}, "client_credential"),
    ({"client_credential": {"unheard": "of"}}, "format"),
    ({"client_credential": {"private_key": "x"}}, "thumbprint"),
    ({"client_credential": {"private_key": "x", "thumbprint": "00"}}, "key"),
    ({"azure_region": "West Europe"}, "westeurope"),
    ({"azure_region": True}, "azure_region"),
    ({"exclude_scopes": "profile"}, "list"),
    ({"exclude_scopes": ["openid"]}, "openid"),
    ({"allow_broker": True}, "PublicClientApplication"),
    ({"verify": False}, "verify"),
    ({"instance_discovery": "https://a.example"}, "instance_discovery"),
    ({"proxies": {"https://host": "http://proxy"}}, "proxies"),
    ({"proxies": {"https": "::"}}, "proxy"),
    ({"timeout": 0}, "timeout"),
    ({"renewal": "sometimes"}, "renewal"),
    ({"app_name": "a\nb"}, "name"),
    ({"client_id": " "}, "client id"),
]


@pytest.mark.parametrize(("options", "words"), REFUSED, ids=lambda value: str(value)[:60])
@pytest.mark.parametrize("module", [strongroom, aio], ids=["sync", "aio"])
def test_what_cannot_work_is_refused_by_the_constructor(module, options, words):
    options = {
        "client_id": "id", "client_credential": "s3cret", "authority": "https://login.microsoftonline.com/t", **options
    }
    with pytest.raises(ValueError, match=words):
        module.ConfidentialClientApplication(**options)


def test_what_is_of_the_wrong_type_is_refused_in_words(tmp_path):
    def make(**options):
        return strongroom.ConfidentialClientApplication("id", "s3cret", "https://login.microsoftonline.com/t", **options)

    with pytest.raises(TypeError, match="SerializableTokenCache"):
        make(token_cache=object())
    with pytest.raises(TypeError, match="post and get"):
        make(http_client=object())
    nowhere = str(tmp_path / "nowhere.pem")
    for call in (
        lambda: make(verify=nowhere),
        lambda: strongroom.ConfidentialClientApplication("id", {"private_key_pfx_path": nowhere}),
    ):
        with pytest.raises(FileNotFoundError) as raised:
            call()
        assert (raised.value.errno, raised.value.filename) == (errno.ENOENT, nowhere)
        assert str(raised.value).count(nowhere) == 1
    large = tmp_path / "large.pfx"
    large.write_bytes(bytes(2**20 + 1))
    with pytest.raises(OSError, match="larger than 1048576 bytes"):
        strongroom.ConfidentialClientApplication("id", {"private_key_pfx_path": str(large)})
    with pytest.raises(IsADirectoryError) as folder:
        strongroom.ConfidentialClientApplication("id", {"private_key_pfx_path": str(tmp_path)})
    assert folder.value.filename == str(tmp_path)
    empty = tmp_path / "empty.pem"
    empty.write_text("no certificate")
    with pytest.raises(ValueError, match="verify: there is no certificate") as refused:
        make(verify=empty)
    assert str(refused.value).count(str(empty)) == 1
    for application in (strongroom.ConfidentialClientApplication, aio.ConfidentialClientApplication):
        with pytest.raises(TypeError, match="client_id is a text"):
            application(None, "s3cret", "https://login.microsoftonline.com/t")
    app = make()
    for call in (
        lambda: app.acquire_token_silent(["scope"], account="me"),
        lambda: app.remove_account("me"),
        lambda: asyncio.run(aio.ConfidentialClientApplication("id", "s3cret", "https://a.example/t", instance_discovery=False)
                            .acquire_token_silent(["scope"], account="me")),
    ):
        with pytest.raises(TypeError, match="get_accounts"):
            call()
    with pytest.raises(TypeError, match="unheard_of") as raised:
        make(unheard_of=1)
    assert "_Base" not in str(raised.value)
    with pytest.raises(ValueError, match="folder"):
        make(verify=str(tmp_path))
    with pytest.warns(DeprecationWarning):
        strongroom.ConfidentialClientApplication("id", {"client_assertion": "a.b.c"}, "https://login.microsoftonline.com/t")


def test_the_constructor_has_the_arguments_of_msal_in_their_order():
    msal = pytest.importorskip("msal")
    theirs = list(inspect.signature(msal.ConfidentialClientApplication).parameters.values())
    for application in (strongroom.ConfidentialClientApplication, aio.ConfidentialClientApplication):
        ours = list(inspect.signature(application).parameters.values())
        assert [one.name for one in ours[: len(theirs)]] == [one.name for one in theirs]
        assert [one.default for one in ours[: len(theirs)]] == [one.default for one in theirs]
        assert all(one.kind is one.KEYWORD_ONLY for one in ours[len(theirs) :])
    for name in ("acquire_token_for_client", "acquire_token_silent", "acquire_token_silent_with_error", "get_accounts"):
        theirs = inspect.signature(getattr(msal.ConfidentialClientApplication, name)).parameters
        ours = inspect.signature(getattr(strongroom.ConfidentialClientApplication, name)).parameters
        assert list(ours) == list(theirs)


def test_an_authority_builder_of_msal_is_an_authority(sts):
    from msal.authority import AuthorityBuilder

    host, tenant = sts.authority.split("//")[1].split("/")
    assert "access_token" in sts.client(authority=AuthorityBuilder(host, tenant)).acquire_token_for_client([sts.scope])


# Where tokens are kept


def test_nothing_of_others_is_needed_and_a_second_process_asks_nobody(idp, python, location):
    first = json.loads(python(WITHOUT + DAEMON, *arguments(idp, location)).stdout)
    idp.fail(status=500, count=-1)
    second = json.loads(python(WITHOUT + DAEMON, *arguments(idp, location)).stdout)
    assert (first["token_source"], second["token_source"]) == ("identity_provider", "cache")
    assert first["access_token"] == second["access_token"] and idp.requests() == 1


def test_a_persisted_token_cache_is_shared_with_msal(sts, location):
    cache = strongroom.PersistedTokenCache(strongroom.FilePersistence(location))
    ours, theirs = sts.client(cache), sts.application(cache)
    token = ours.acquire_token_for_client([sts.scope])["access_token"]
    found = theirs.acquire_token_for_client([sts.scope])
    assert (found["token_source"], found["access_token"]) == ("cache", token)
    theirs.remove_tokens_for_client()
    token = theirs.acquire_token_for_client([sts.scope])["access_token"]
    found = ours.acquire_token_for_client([sts.scope])
    assert (found["token_source"], found["access_token"]) == ("cache", token)


def test_a_path_is_an_encrypted_cache(idp, location):
    token = idp.client(location).acquire_token_for_client([idp.scope])["access_token"]
    assert token.encode() not in open(location, "rb").read()
    assert idp.client(location).acquire_token_for_client([idp.scope])["token_source"] == "cache"


def test_the_cache_of_a_web_session_is_kept_in_its_object(sts):
    import msal

    cache = msal.SerializableTokenCache()
    app = sts.client(cache)
    assert not cache.has_state_changed
    token = app.acquire_token_for_client([sts.scope])["access_token"]
    assert cache.has_state_changed
    assert app.acquire_token_for_client([sts.scope])["token_source"] == "cache"
    assert cache.has_state_changed, "that it was looked at does not store it"
    session = cache.serialize()
    assert token in session and not cache.has_state_changed
    assert app.acquire_token_for_client([sts.scope])["token_source"] == "cache"
    assert not cache.has_state_changed
    assert sts.application(cache).acquire_token_for_client([sts.scope])["access_token"] == token

    another = msal.SerializableTokenCache()
    another.deserialize(session)
    assert sts.client(another).acquire_token_for_client([sts.scope])["access_token"] == token
    cache.deserialize("{}")
    assert app.acquire_token_for_client([sts.scope])["token_source"] == "identity_provider"


def test_any_object_that_can_be_serialized_will_do(idp):
    class Mine:
        text = None

        def serialize(self):
            return self.text

        def deserialize(self, text):
            self.text = text

    mine = Mine()
    app = idp.client(mine)
    token = app.acquire_token_for_client([idp.scope])["access_token"]
    assert token in mine.text and mine.has_state_changed
    assert app.acquire_token_for_client([idp.scope])["token_source"] == "cache"


def test_a_cache_that_cannot_be_read_is_an_error_and_one_that_cannot_be_written_is_said(idp, tmp_path):
    folder = tmp_path / "folder.bin"
    folder.mkdir()
    with pytest.raises(OSError):
        idp.client(strongroom.FilePersistence(str(folder))).acquire_token_for_client([idp.scope])

    class Full(strongroom.FilePersistence):
        def save(self, content):
            raise OSError(28, "no space")

    app = idp.client(Full(str(tmp_path / "full.bin")))
    first = app.acquire_token_for_client([idp.scope])
    assert first["persisted"] is False and first["token_source"] == "identity_provider"
    again = app.acquire_token_for_client([idp.scope])
    assert again["persisted"] is False and again["access_token"] == first["access_token"] and idp.requests() == 1


# Renewal


def test_a_token_past_its_refresh_on_is_served_and_renewed_behind_the_caller(idp, location):
    app = idp.client(strongroom.FilePersistence(location))
    old = app.acquire_token_for_client([idp.scope])["access_token"]
    change_token(location, cached_at=-1000, refresh_on=-900)
    idp.fail(hold=True)
    served = app.acquire_token_for_client([idp.scope])
    assert served["token_source"] == "cache" and served["access_token"] == old and served["refresh_on"] < time.time()
    idp.wait_until_held()
    idp.mend()
    app.close()
    new = app.acquire_token_for_client([idp.scope])
    assert new["token_source"] == "cache" and new["access_token"] != old and idp.requests() == 2


def test_renewal_may_be_inline_or_off(idp, location):
    first = idp.client(strongroom.FilePersistence(location), renewal="off")
    old = first.acquire_token_for_client([idp.scope])["access_token"]
    change_token(location, cached_at=-1000, refresh_on=-900)
    assert first.acquire_token_for_client([idp.scope])["access_token"] == old
    first.close()
    assert idp.requests() == 1
    inline = idp.client(strongroom.FilePersistence(location), renewal="inline")
    new = inline.acquire_token_for_client([idp.scope])
    assert new["token_source"] == "identity_provider" and new["access_token"] != old


def test_nothing_is_an_error_while_the_token_lives(idp, location):
    app = idp.client(strongroom.FilePersistence(location))
    token = app.acquire_token_for_client([idp.scope])["access_token"]
    for fault in ({"status": 503}, {"status": 401, "body": '{"error":"invalid_client"}'}, {"cut_after_bytes": 0}):
        change_token(location, cached_at=-3000, expires_on=60)
        os.path.exists(location + ".state") and os.remove(location + ".state")
        idp.fail(count=-1, **fault)
        fresh = idp.client(strongroom.FilePersistence(location))
        served = fresh.acquire_token_for_client([idp.scope])
        assert served["access_token"] == token and served["stale"] is True and 0 < served["expires_in"] <= 60
        assert fresh.acquire_token_silent([idp.scope], None)["access_token"] == token
        idp.mend()
    os.remove(location + ".state")
    change_token(location, cached_at=-3000, expires_on=-1)
    idp.fail(status=503, headers={"Retry-After": "60"}, count=-1)
    with pytest.raises(strongroom.MsalServiceError):
        idp.client(strongroom.FilePersistence(location)).acquire_token_for_client([idp.scope])


def test_an_expired_token_is_served_where_that_is_wanted_and_allowed(idp, location):
    idp.client(strongroom.FilePersistence(location)).acquire_token_for_client([idp.scope])
    change_token(location, cached_at=-4000, expires_on=-1, extended_expires_on=3600)
    idp.fail(status=503, headers={"Retry-After": "60"}, count=-1)
    app = idp.client(strongroom.FilePersistence(location), extended_lifetime=600)
    assert app.acquire_token_for_client([idp.scope])["stale"] is True


# What is not asked of the provider


def test_silently_only_the_cache_is_asked(idp):
    app = idp.client()
    assert app.acquire_token_silent([idp.scope], account=None) is None
    assert app.acquire_token_silent_with_error([idp.scope], None) is None and idp.requests() == 0
    app.acquire_token_for_client([idp.scope])
    assert app.acquire_token_silent([idp.scope], account=None)["token_source"] == "cache"
    assert app.acquire_token_silent([idp.scope], None, force_refresh=True) is None
    assert app.acquire_token_silent([idp.scope], None, claims_challenge="{}") is None


def test_a_challenge_passes_the_cache_and_what_sets_a_token_apart_is_kept_apart(idp):
    app = idp.client(client_capabilities=["CP1"])
    plain = app.acquire_token_for_client([idp.scope])["access_token"]
    challenge = '{"access_token":{"nbf":{"essential":true,"value":"1"}}}'
    challenged = app.acquire_token_for_client([idp.scope], claims_challenge=challenge)
    assert challenged["token_source"] == "identity_provider" and challenged["access_token"] != plain
    assert app.acquire_token_for_client([idp.scope])["access_token"] == challenged["access_token"]
    for more in ({"fmi_path": "a/b"}, {"forwarded_client_claims": '{"a":1}'}):
        first = app.acquire_token_for_client([idp.scope], **more)
        assert first["token_source"] == "identity_provider"
        second = app.acquire_token_for_client([idp.scope], **more)
        assert (second["token_source"], second["access_token"]) == ("cache", first["access_token"])
    assert idp.requests() == 4


def test_the_applications_own_tokens_are_removed_all_of_them(idp, location):
    app = idp.client(strongroom.FilePersistence(location))
    app.acquire_token_for_client([idp.scope])
    app.acquire_token_for_client([idp.scope], fmi_path="a/b")
    assert app.remove_tokens_for_client() is None
    assert not json.load(open(location, encoding="utf-8")).get("AccessToken")
    assert app.acquire_token_silent([idp.scope], None) is None


# Users that others have signed in


def signed_in(location):
    """A cache with a user, as MSAL has written it."""
    cache = strongroom.PersistedTokenCache(strongroom.FilePersistence(location))
    encoded = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
        for part in ({"uid": "uid", "utid": "utid"}, {"oid": "oid", "sub": "sub", "preferred_username": "Ann@example.com"})
    ]
    cache.add(
        app_token_event(
            scope="User.Read",
            secret="the user's",
            token_endpoint="https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/oauth2/v2.0/token",
            grant_type="authorization_code",
            response={
                "access_token": "the user's", "expires_in": 3600, "token_type": "Bearer", "refresh_token": "rt",
                "client_info": encoded[0], "id_token": f"h.{encoded[1]}.s", "refresh_in": 1800,
            },
        )
    )
    return cache


AUTHORITY = "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47"


class NoNetwork:
    """An `http_client` that says no more than msal's constructor wants to know."""

    def __init__(self):
        self.posted = []

    def post(self, url, params=None, data=None, headers=None, **kwargs):
        self.posted.append(dict(data))
        return self.Answer({"access_token": "new", "expires_in": 3600, "token_type": "Bearer"})

    def get(self, url, params=None, headers=None, **kwargs):
        base = AUTHORITY + "/oauth2/v2.0/"
        return self.Answer(
            {"authorization_endpoint": base + "authorize", "token_endpoint": base + "token", "issuer": AUTHORITY + "/v2.0"}
        )

    def close(self):
        pass

    class Answer:
        status_code = 200

        def __init__(self, body):
            self.text, self.headers = json.dumps(body), {}

        def raise_for_status(self):
            pass


def test_users_and_their_tokens_are_found_as_by_msal(location):
    cache = signed_in(location)
    ours = strongroom.ConfidentialClientApplication("client", "s3cret", AUTHORITY, token_cache=cache)
    (account,) = ours.get_accounts()
    assert ours.get_accounts("ANN@EXAMPLE.COM") == [account] and ours.get_accounts("bob") == []
    found = ours.acquire_token_silent(["User.Read"], account)
    assert found.keys() == {"access_token", "token_type", "expires_in", "refresh_on", "token_source"}
    assert found["access_token"] == "the user's" and found["token_source"] == "cache"
    assert ours.acquire_token_silent(["Mail.Read"], account) is None
    assert ours.acquire_token_silent(["User.Read"], None) is None, "a user's token is not the application's"

    msal = pytest.importorskip("msal")
    theirs = msal.ConfidentialClientApplication(
        "client", "s3cret", AUTHORITY, token_cache=cache, http_client=NoNetwork(), instance_discovery=False
    )
    assert theirs.get_accounts() == [account]
    assert shape(theirs.acquire_token_silent(["User.Read"], account)) == shape(found)

    ours.remove_account(account)
    assert ours.get_accounts() == [] and theirs.get_accounts() == []
    assert ours.acquire_token_silent(["User.Read"], account) is None


# How requests travel, and what is in them


def test_an_http_client_of_ones_own_is_used_for_every_request():
    http = NoNetwork()
    app = strongroom.ConfidentialClientApplication("client", "s3cret", AUTHORITY, http_client=http)
    assert app.acquire_token_for_client(["s/.default"])["access_token"] == "new"
    (data,) = http.posted
    assert data == {
        "client_id": "client", "client_secret": "s3cret", "grant_type": "client_credentials", "scope": "s/.default"
    }


def test_a_session_of_requests_is_an_http_client(sts):
    import requests

    session = requests.Session()
    session.verify = sts.ca_file
    app = sts.client(http_client=session, verify=True)
    assert app.acquire_token_for_client([sts.scope])["token_source"] == "identity_provider"


def test_certificates_and_assertions_go_out_as_those_of_msal(tmp_path):
    msal = pytest.importorskip("msal")
    key, certificate, pfx = key_and_certificate(tmp_path)
    asked = []
    forms = [
        {"private_key": key, "public_certificate": certificate},
        {"private_key": key, "thumbprint": "A1B2" * 10},
        {"private_key": key, "thumbprint": "A1B2" * 10, "public_certificate": certificate},
        {"private_key_pfx_path": pfx, "passphrase": "pass"},
        {"private_key_pfx_path": pfx, "passphrase": "pass", "public_certificate": True},
        {"client_assertion": lambda: "a.b.c"},
        {"client_assertion": lambda context: asked.append(context) or b"a.b.c"},
    ]
    for form in forms:
        sent = []
        for module in (strongroom, msal):
            http = NoNetwork()
            app = module.ConfidentialClientApplication(
                "client", form, AUTHORITY, http_client=http, instance_discovery=False, client_claims={"client_ip": "::1"}
            )
            app.acquire_token_for_client(["s/.default"])
            app.acquire_token_for_client(["s/.default"])
            (data,) = http.posted
            assert data["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
            sent.append(parts(data["client_assertion"]))
        assert sent[0] == sent[1], form.keys()
    assert len(asked) == 2 and asked[0] == asked[1]
    assert asked[0]["client_id"] == "client" and asked[0]["token_endpoint"].startswith(AUTHORITY)


def parts(assertion):
    """What is in an assertion, without what differs each time. The padding of thumbprints says nothing."""
    assertion = assertion.decode() if isinstance(assertion, bytes) else assertion
    if assertion == "a.b.c":
        return assertion
    header, claims = (
        json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in assertion.split(".")[:2]
    )
    lifetime = claims.pop("exp") - claims.pop("iat")
    claims.pop("jti")
    header = {name: value.rstrip("=") if isinstance(value, str) else value for name, value in header.items()}
    # msal breaks the lines of one of its forms, which is not base64 as RFC 7515 has it.
    if "x5c" in header:
        header["x5c"] = ["".join(one.split()) for one in header["x5c"]]
    return header, claims, lifetime


def key_and_certificate(folder):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import pkcs12

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    certificate = self_signed(key, "daemon")
    pem = serialization.Encoding.PEM
    pfx = folder / "daemon.pfx"
    pfx.write_bytes(
        pkcs12.serialize_key_and_certificates(
            b"daemon", key, certificate, None, serialization.BestAvailableEncryption(b"pass")
        )
    )
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private.decode(), certificate.public_bytes(pem).decode(), str(pfx)


def test_what_an_assertion_provider_raises_comes_out_as_it_went_in():
    class Mine(Exception):
        pass

    def provide():
        raise Mine("no token file")

    app = strongroom.ConfidentialClientApplication(
        "client", {"client_assertion": provide}, AUTHORITY, http_client=NoNetwork()
    )
    for _ in range(2):
        with pytest.raises(Mine, match="no token file"):
            app.acquire_token_for_client(["s/.default"])


def test_a_region_is_asked_and_its_tokens_are_those_of_the_cloud(location, monkeypatch):
    class Where(NoNetwork):
        urls = []

        def post(self, url, **kwargs):
            self.urls.append(url)
            return super().post(url, **kwargs)

    cache = strongroom.FilePersistence(location)
    monkeypatch.setenv("MSAL_FORCE_REGION", "westeurope")
    app = strongroom.ConfidentialClientApplication("c", "s3cret", AUTHORITY, token_cache=cache, http_client=Where())
    app.acquire_token_for_client(["s/.default"])
    assert Where.urls == [AUTHORITY.replace("login.microsoftonline.com", "westeurope.login.microsoft.com") + "/oauth2/v2.0/token"]
    central = strongroom.ConfidentialClientApplication(
        "c", "s3cret", AUTHORITY, token_cache=cache, http_client=NoNetwork(), azure_region=False
    )
    assert central.acquire_token_for_client(["s/.default"])["token_source"] == "cache"


# Threads, processes, children


def test_many_threads_that_want_one_token_make_one_request(idp):
    app = idp.client()
    start, results = threading.Barrier(32), []

    def ask():
        start.wait()
        results.append(app.acquire_token_for_client([idp.scope])["access_token"])

    idp.fail(hold=True)
    threads = [threading.Thread(target=ask) for _ in range(32)]
    for thread in threads:
        thread.start()
    idp.wait_until_held()
    idp.mend()
    for thread in threads:
        thread.join()
    assert len(results) == 32 and len(set(results)) == 1 and idp.requests() == 1


HERD = """
import sys, threading
import strongroom
location, authority, client_id, secret, scope, ca_file = sys.argv[1:]
app = strongroom.ConfidentialClientApplication(
    client_id, secret, authority, instance_discovery=False, verify=ca_file, token_cache=strongroom.FilePersistence(location)
)
tokens = []
threads = [
    threading.Thread(target=lambda: tokens.append(app.acquire_token_for_client([scope])["access_token"])) for _ in range(8)
]
print("ready", flush=True)
sys.stdin.readline()
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(*tokens)
"""


def test_many_threads_of_many_processes_make_one_request(idp, location, tmp_path):
    command = [sys.executable, "-c", HERD, *arguments(idp, location)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": tmp_path}
    processes = [subprocess.Popen(command, **pipes) for _ in range(16)]
    assert all(process.stdout.readline() == "ready\n" for process in processes)
    idp.fail(hold=True)
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    idp.wait_until_held()
    idp.mend()
    tokens = [token for process in processes for token in process.communicate(timeout=120)[0].split()]
    assert len(tokens) == 128 and len(set(tokens)) == 1 and idp.requests() == 1


@needs_fork
def test_a_child_uses_the_client_of_its_parent(idp, location):
    app = idp.client(strongroom.FilePersistence(location))
    token = app.acquire_token_for_client([idp.scope])["access_token"]

    def child():
        assert app.acquire_token_for_client([idp.scope])["access_token"] == token
        app.remove_tokens_for_client()
        assert app.acquire_token_for_client([idp.scope])["token_source"] == "identity_provider"

    assert in_child(child)
    found = app.acquire_token_for_client([idp.scope])
    assert found["token_source"] == "cache" and found["access_token"] != token


@needs_fork
def test_a_child_that_is_forked_while_others_wait_gets_a_token(idp):
    app = idp.client()
    idp.fail(hold=True)
    waiting = threading.Thread(target=app.acquire_token_for_client, args=([idp.scope],))
    waiting.start()
    idp.wait_until_held()

    def child():
        idp.mend()
        assert "access_token" in app.acquire_token_for_client([idp.scope])

    assert in_child(child)
    waiting.join()


INTERRUPTED = """
import os, signal, sys, threading, time, urllib.request
import strongroom
location, authority, client_id, secret, scope, ca_file = sys.argv[1:]
app = strongroom.ConfidentialClientApplication(
    client_id, secret, authority, instance_discovery=False, verify=ca_file, timeout=60
)
def interrupt():
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt, daemon=True).start()
try:
    app.acquire_token_for_client([scope])
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a process of Windows cannot be interrupted alone")
def test_ctrl_c_ends_the_waiting(idp, location):
    idp.fail(hold=True)
    command = [sys.executable, "-c", INTERRUPTED, *arguments(idp, location)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        idp.wait_until_held()
        output, _ = process.communicate("now\n", timeout=30)
    assert output == "interrupted\n"


AT_EXIT = """
import sys
import strongroom
location, authority, client_id, secret, scope, ca_file = sys.argv[1:]
app = strongroom.ConfidentialClientApplication(
    client_id, secret, authority, instance_discovery=False, verify=ca_file, token_cache=strongroom.FilePersistence(location)
)
print(app.acquire_token_for_client([scope])["token_source"])
"""


def test_a_renewal_is_waited_for_when_python_ends(idp, python, location):
    old = idp.client(strongroom.FilePersistence(location)).acquire_token_for_client([idp.scope])["access_token"]
    change_token(location, cached_at=-1000, refresh_on=-900)
    assert python(AT_EXIT, *arguments(idp, location)).stdout == "cache\n"
    new = idp.client(strongroom.FilePersistence(location)).acquire_token_for_client([idp.scope])
    assert new["token_source"] == "cache" and new["access_token"] != old


def test_a_client_shows_no_secret_and_is_not_copied(idp):
    for module in (strongroom, aio):
        app = idp.client(module=module)
        assert idp.client_secret not in repr(app) and idp.client_id in repr(app)
        for act in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be pickled"):
                act(app)
        assert idp.client_secret not in str(vars(app))


def test_a_client_is_closed_by_with_and_can_be_subclassed(idp):
    class Mine(strongroom.ConfidentialClientApplication):
        def __init__(self, idp):
            super().__init__(
                idp.client_id, idp.client_secret, idp.authority, instance_discovery=False, verify=idp.ca_file
            )

    with Mine(idp) as app:
        assert "access_token" in app.acquire_token_for_client([idp.scope])
    assert app.acquire_token_for_client([idp.scope])["token_source"] == "cache"

    class Unfinished(strongroom.ConfidentialClientApplication):
        def __init__(self):
            pass

    with pytest.raises(RuntimeError, match="constructor"):
        Unfinished().acquire_token_for_client([idp.scope])


def test_what_a_client_does_is_logged_without_secrets(idp, caplog):
    with caplog.at_level("DEBUG", logger="strongroom"):
        token = idp.client().acquire_token_for_client([idp.scope])["access_token"]
    assert any("requesting a token" in record.getMessage() for record in caplog.records)
    assert token not in caplog.text and idp.client_secret not in caplog.text


def test_help_shows_an_example_and_what_is_raised():
    import pydoc

    for application in (strongroom.ConfidentialClientApplication, aio.ConfidentialClientApplication):
        text = pydoc.render_doc(application)
        assert "acquire_token_for_client(" in text and "result = " in text
    assert ":param client_credential:" in pydoc.render_doc(strongroom.ConfidentialClientApplication)
    assert ":raises MsalServiceError:" in pydoc.render_doc(
        strongroom.ConfidentialClientApplication.acquire_token_for_client
    )
