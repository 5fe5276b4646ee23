"""The token cache, beside MSAL's own: the same entries, the same answers, and what is better on purpose."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Iterator

import pytest

import strongroom
from conftest import app_token_event, app_token_query

msal = pytest.importorskip("msal")
ENVIRONMENT = "login.microsoftonline.com"
AT, RT, IDT, ACCOUNT, APP = "AccessToken", "RefreshToken", "IdToken", "Account", "AppMetadata"


@pytest.fixture()
def cache(location):
    return strongroom.PersistedTokenCache(strongroom.FilePersistence(location))


def encoded(**claims):
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")


def user_event(uid="uid", grant_type="authorization_code", scope=("s2", "s1"), **more):
    response = {
        "access_token": "an access token",
        "expires_in": 3600,
        "ext_expires_in": 7200,
        "refresh_in": 1800,
        "token_type": "Bearer",
        "refresh_token": f"a refresh token of {uid}",
        "id_token": f"{encoded(alg='none')}.{encoded(oid=uid, sub='sub', aud='client', preferred_username='ü@contoso')}.",
        "client_info": encoded(uid=uid, utid="utid"),
    }
    response.update(more.pop("response", {}))
    return {
        "client_id": "client",
        "scope": list(scope),
        "token_endpoint": f"https://{ENVIRONMENT}/tenant/oauth2/v2.0/token",
        "environment": ENVIRONMENT,
        "grant_type": grant_type,
        "response": response,
        "data": {},
        **more,
    }


EVENTS = {
    "app": [app_token_event()],
    "app with more scopes": [app_token_event(scope="s3 S1 s2")],
    "app, extended": [app_token_event(data={"fmi_path": "some/path"})],
    "user": [user_event()],
    "two users": [user_event(), user_event("other")],
    "on behalf of": [user_event(grant_type="urn:ietf:params:oauth:grant-type:jwt-bearer")],
    "family": [user_event(response={"foci": "1"})],
    "refresh": [user_event(), user_event(skip_account_creation=True, scope=["s9"], response={"refresh_token": None})],
    "AD FS": [user_event(token_endpoint="https://fs.contoso.com/adfs/oauth2/token", environment="fs.contoso.com")],
    "times as text": [app_token_event(response={"access_token": "t", "expires_in": "3600", "ext_expires_in": "7200"})],
    "bound to a key": [user_event(data={"key_id": "1", "req_cnf": "x", "username": "someone"}, response={"token_type": "pop"})],
    "expiry of a managed identity": [app_token_event(response={"access_token": "t", "expires_on": "5000"})],
    "without id token": [user_event(grant_type="password", data={"username": "someone"}, response={"id_token": None}, _account_id="oid")],
    "parameters of ones own": [app_token_event(data={"fmi_path": "ü/x", "client_claims": '{"a":1}', "empty": "", "number": 5})],
    "without expiry": [app_token_event(response={"access_token": "t"})],
    "another client": [app_token_event(), app_token_event("Other-Client")],
    "again": [app_token_event(), app_token_event(secret="another token")],
}


@pytest.mark.parametrize("name", EVENTS)
def test_the_entries_and_their_keys_are_those_of_msal(name, cache, location):
    theirs = msal.SerializableTokenCache()
    for event in EVENTS[name]:
        cache.add(event, now=1000)
        theirs.add(event, now=1000)
    with open(location, encoding="utf-8") as file:
        assert json.load(file) == json.loads(theirs.serialize())
    assert json.loads(cache.serialize()) == json.loads(theirs.serialize())
    assert cache._cache == theirs._cache


def test_without_msal_the_entries_are_the_same(python, tmp_path):
    program = """
import json, sys
sys.modules["msal"] = None
import strongroom
cache = strongroom.PersistedTokenCache(strongroom.FilePersistence(sys.argv[1]))
for event in json.loads(sys.argv[2]):
    cache.add(event, now=1000)
assert cache.has_state_changed
cache.update_rt({"credential_type": "RefreshToken", "home_account_id": "a.b", "client_id": "c", "environment": "e", "target": "t"}, "rotated")
assert next(cache.search("RefreshToken", query={"client_id": "c"}))["secret"] == "rotated"
cache.remove_rt(next(cache.search("RefreshToken", query={"client_id": "c"})))
assert cache._get_app_metadata(environment="nowhere", client_id="nobody", default={}) == {}
assert list(cache.search("nonsense", query={"environment": "x"})) == []
for remove, kind in ((cache.remove_at, "AccessToken"), (cache.remove_idt, "IdToken"), (cache.remove_account, "Account")):
    try:
        remove({})
    except AssertionError:
        pass
    else:
        raise LookupError(kind)
print(cache.serialize())
"""
    for number, (name, events) in enumerate(EVENTS.items()):
        theirs = msal.SerializableTokenCache()
        for event in events:
            theirs.add(event, now=1000)
        ours = json.loads(python(program, str(tmp_path / str(number)), json.dumps(events)).stdout)
        ours = {section: entries for section, entries in ours.items() if entries}
        assert ours == json.loads(theirs.serialize()), name


@pytest.mark.parametrize(
    "kind, arguments",
    [
        (AT, {"target": ["s1"], "query": app_token_query()}),
        (AT, {"target": ["s1", "s2"], "query": {**app_token_query(), "home_account_id": "uid.utid"}}),
        (AT, {"target": ["s3"], "query": {**app_token_query(), "home_account_id": "uid.utid"}}),
        (AT, {"query": {"environment": ENVIRONMENT, "home_account_id": "uid.utid"}}),
        (AT, {"query": {"client_id": "client", "environment": ENVIRONMENT.upper(), "home_account_id": None}}),
        (RT, {"query": {"environment": ENVIRONMENT, "home_account_id": "uid.utid", "client_id": "client"}}),
        (RT, {"query": {"environment": ENVIRONMENT, "home_account_id": "uid.utid", "family_id": "1"}}),
        (RT, {"target": ["s1"], "query": {"secret": "a refresh token of uid"}}),
        (ACCOUNT, {"query": {"environment": ENVIRONMENT}}),
        (ACCOUNT, {"query": {"username": "ü@contoso", "authority_type": "MSSTS"}}),
        (ACCOUNT, {"query": {"username": "nobody"}}),
        (IDT, {"query": {"realm": "tenant"}}),
        (IDT, {}),
        (APP, {"query": {"client_id": "client"}}),
        ("nonsense", {}),
        ("", {}),
    ],
)
def test_a_search_finds_what_msal_finds(kind, arguments, cache):
    theirs = msal.SerializableTokenCache()
    now = {"now": int(time.time())}
    for one in (cache, theirs):
        for event in (app_token_event(), user_event(), user_event("other", response={"foci": "1"})):
            one.add(event, **now)
    found = list(cache.search(kind, **arguments, **now))
    expected = list(theirs.search(kind, **arguments, **now))
    key = lambda entry: json.dumps(entry, sort_keys=True)  # noqa: E731
    assert sorted(found, key=key) == sorted(expected, key=key)
    with pytest.warns(DeprecationWarning):
        assert cache.find(kind, **arguments, **now) == found


def test_scopes_can_be_anything_to_go_through_in_any_order(cache):
    cache.add(app_token_event(scope="s1 s2"))
    for _ in range(2):
        for scopes in (["s1", "s2"], ["s2", "s1"], ("s2",), {"s1", "s2"}, iter(["s2", "s1"])):
            assert len(list(cache.search(AT, target=scopes, query=app_token_query()))) == 1, scopes
        assert list(cache.search(AT, target=iter(["s3"]), query=app_token_query())) == []


def test_target_and_query_are_given_by_name(cache):
    with pytest.raises(TypeError):
        cache.search(AT, ["s1"])
    # As with a generator, whoever goes away early pays for no more than he has taken.
    assert isinstance(cache.search(AT), Iterator)


def test_one_add_is_one_lock_cycle_and_one_write(location):
    written = []

    class Counting(strongroom.FilePersistence):
        def save(self, content):
            assert os.path.exists(location + ".lockfile")
            written.append(content)
            super().save(content)

    cache = strongroom.PersistedTokenCache(Counting(location))
    cache.add(user_event())
    assert len(written) == 1
    assert set(json.loads(written[0])) == {AT, RT, IDT, ACCOUNT, APP}
    assert not os.path.exists(location + ".lockfile")


def test_what_is_there_already_is_not_written_again(cache, location):
    cache.add(app_token_event(), now=int(time.time()))
    before = os.stat(location)
    account = {"home_account_id": "nobody", "environment": ENVIRONMENT, "realm": "r", "authority_type": "MSSTS"}
    cache.remove_account(account)
    cache.modify(APP, {"client_id": "client", "environment": ENVIRONMENT}, {"client_id": "client"})
    assert (os.stat(location).st_mtime_ns, os.stat(location).st_ino) == (before.st_mtime_ns, before.st_ino)


def test_a_look_up_writes_nothing_and_what_has_expired_goes_with_the_next_token(cache, location):
    cache.add(app_token_event(), now=1000)
    before = os.stat(location).st_mtime_ns
    assert list(cache.search(AT)) == [] and len(list(cache.search(AT, now=1001))) == 1
    # What MSAL finds by its key it judges by itself.
    assert len(list(cache.search(AT, target=["s1"], query=app_token_query()))) == 1
    assert os.stat(location).st_mtime_ns == before
    cache.add(app_token_event(scope="s2", secret="second"))
    assert [entry["secret"] for entry in cache._cache[AT].values()] == ["second"]


def test_has_state_changed_as_with_msal(cache):
    assert not cache.has_state_changed
    cache.add({})
    assert cache.has_state_changed
    cache.serialize()
    assert not cache.has_state_changed
    cache.add(app_token_event())
    assert cache.has_state_changed
    cache.remove_at(next(cache.search(AT)))
    assert not cache.has_state_changed


def test_removals_and_updates_are_by_what_an_entry_is(cache):
    cache.add(user_event())
    rt = next(cache.search(RT))
    cache.update_rt(rt, "a rotated token")
    rotated = list(cache.search(RT))
    assert [one["secret"] for one in rotated] == ["a rotated token"]
    for kind, remove in ((RT, cache.remove_rt), (AT, cache.remove_at), (IDT, cache.remove_idt), (ACCOUNT, cache.remove_account)):
        remove(next(cache.search(kind)))
        assert list(cache.search(kind)) == [] and cache._cache[kind] == {}
    with pytest.raises(AssertionError):
        cache.remove_at(rt)


def test_a_new_refresh_token_takes_the_place_of_the_users_old_one_in_whatever_language_it_is(cache, location):
    cache.add(user_event())
    document = json.loads(cache.serialize())
    (entry,) = document[RT].values()
    gos = {name: entry[name] for name in ("credential_type", "secret", "home_account_id", "environment", "client_id")}
    document[RT][f"uid.utid-{ENVIRONMENT}-refreshtoken-client"] = gos
    with open(location, "w", encoding="utf-8") as file:
        json.dump(document, file)
    cache.add(user_event(scope=["s9"], response={"refresh_token": "rotated"}))
    assert [one["secret"] for one in cache._cache[RT].values()] == ["rotated", "rotated"]
    theirs = msal.SerializableTokenCache()
    theirs.deserialize(cache.serialize())
    for token in list(theirs.search(RT, query={"home_account_id": "uid.utid"})):
        theirs.remove_rt(token)
    assert list(theirs._cache[RT]) == [f"uid.utid-{ENVIRONMENT}-refreshtoken-client"], "Python removes its own"


def test_entries_of_other_languages_are_found_renewed_and_removed_where_they_are(cache, location):
    nodes = {
        "credential_type": "AccessToken",
        "secret": "node's",
        "home_account_id": "",
        "environment": "login.windows.net",
        "client_id": "client",
        "target": "s1",
        "realm": "tenant",
        "token_type": "Bearer",
        "cached_at": str(int(time.time())),
        "expires_on": str(int(time.time()) + 3600),
        "extended_expires_on": str(int(time.time()) + 3600),
        "theirs": {"kept": [1, 2.5, None, True]},
    }
    key = "-login.windows.net-accesstoken-client-tenant-s1-"
    with open(location, "w", encoding="utf-8") as file:
        json.dump({AT: {key: nodes}, "Unknown": {"foo": "bar"}, RT: {"bad": 5}}, file)
    (found,) = cache.search(AT, target=["S1"], query=app_token_query())
    assert found == {**nodes, "home_account_id": None}

    cache.add(app_token_event(secret="renewed"))
    document = json.load(open(location, encoding="utf-8"))
    assert list(document[AT]) == [key]
    assert document[AT][key]["secret"] == "renewed" and document[AT][key]["theirs"] == nodes["theirs"]
    assert document["Unknown"] == {"foo": "bar"} and document[RT] == {"bad": 5}

    cache.remove_at(next(cache.search(AT)))
    document = json.load(open(location, encoding="utf-8"))
    assert document[AT] == {} and document["Unknown"] == {"foo": "bar"}


def test_one_bad_entry_costs_no_other(cache, location):
    cache.add(user_event())
    document = json.loads(cache.serialize())
    document[AT]["null"] = None
    document[AT]["text"] = "x"
    document[AT]["no expiry"] = {"secret": "x", "environment": ENVIRONMENT}
    document[ACCOUNT]["bare"] = {"home_account_id": "bare.utid", "environment": ENVIRONMENT, "realm": "tenant"}
    document[RT]["null"] = {**next(iter(document[RT].values())), "client_id": "two", "last_modification_time": None}
    with open(location, "w", encoding="utf-8") as file:
        json.dump(document, file)
    assert len(list(cache.search(AT))) == 1
    for account in cache.search(ACCOUNT):
        assert account["authority_type"] == "MSSTS" and isinstance(account["username"], str)
    for token in cache.search(RT):
        assert int(token.get("last_modification_time", "0")) >= 0
    app = msal.ClientApplication("client", token_cache=cache, instance_discovery=False, http_client=NoNetwork())
    assert {account["home_account_id"] for account in app.get_accounts()} == {"uid.utid", "bare.utid"}


class NoNetwork:
    """Answers the one request that MSAL makes when an application is made."""

    def get(self, url, **kwargs):
        class Answer:
            status_code = 200
            headers: dict = {}
            text = json.dumps(
                {
                    "authorization_endpoint": f"https://{ENVIRONMENT}/common/authorize",
                    "token_endpoint": f"https://{ENVIRONMENT}/common/token",
                    "issuer": f"https://{ENVIRONMENT}/common/v2.0",
                }
            )

            def raise_for_status(self):
                pass

        return Answer()

    def post(self, url, **kwargs):
        raise AssertionError("no token is to be requested")

    def close(self):
        pass


class TestIsolation:
    def test_an_extended_token_answers_only_its_own_request(self, cache):
        cache.add(app_token_event(data={"fmi_path": "some/path"}, secret="extended"))
        extended = next(iter(cache._cache[AT].values()))["ext_cache_key"]
        query = app_token_query()
        assert list(cache.search(AT, target=["s1"], query=query)) == []
        assert list(cache.search(AT, target=[], query=query)) == [], "no scopes are still a request"
        assert list(cache.search(AT, target=["s1"], query={**query, "ext_cache_key": "other"})) == []
        assert len(list(cache.search(AT, target=["s1"], query={**query, "ext_cache_key": extended}))) == 1

    def test_a_token_that_is_bound_to_a_key_never_answers_a_bearer_request(self, cache):
        bearer, query = app_token_event(secret="bearer"), app_token_query()
        bound = app_token_event(
            data={"key_id": "1", "token_type": "pop", "req_cnf": "x"},
            response={"access_token": "bound", "expires_in": 3600, "token_type": "pop"},
        )
        cache.add(bound)
        assert list(cache.search(AT, target=["s1"], query=query)) == []
        cache.add(bearer)
        assert [one["secret"] for one in cache.search(AT, target=["s1"], query=query)] == ["bearer"]
        (found,) = cache.search(AT, target=["s1"], query={**query, "key_id": "1"})
        assert found["secret"] == "bound" and found["key_id"] == "1"

    def test_of_tokens_that_are_bound_to_keys_a_place_has_room_for_one(self, cache):
        for key_id in ("1", "2"):
            cache.add(user_event(data={"key_id": key_id}))
        assert [one["key_id"] for one in cache._cache[AT].values()] == ["2"]

    def test_a_users_token_never_answers_for_the_application(self, cache):
        cache.add(user_event(scope=["s1"]))
        assert list(cache.search(AT, target=["s1"], query=app_token_query())) == []

    def test_on_behalf_of_tokens_of_other_languages_do_not_answer_silent_requests_and_go_with_the_account(
        self, cache, location
    ):
        cache.add(user_event(scope=["s1"]))
        document = json.loads(cache.serialize())
        (entry,) = document[AT].values()
        document[AT] = {"theirs": {**entry, "user_assertion_hash": "fFsdSeaHX9iH_VIhI8SzQWnUzBGmUCzATLfrj3wWaXI"}}
        with open(location, "w", encoding="utf-8") as file:
            json.dump(document, file)
        query = {**app_token_query(), "home_account_id": "uid.utid"}
        assert list(cache.search(AT, target=["s1"], query=query)) == []
        assert len(list(cache.search(AT, query={"environment": ENVIRONMENT, "home_account_id": "uid.utid"}))) == 1


class TestSignOut:
    def application(self, cache):
        return msal.ClientApplication("client", token_cache=cache, instance_discovery=False, http_client=NoNetwork())

    def test_it_takes_what_other_languages_have_stored_and_what_has_expired(self, cache, location):
        cache.add(user_event())
        document = json.loads(cache.serialize())
        for section, entries in document.items():
            if section != APP:
                document[section] = {f"{key}-of-node": entry for key, entry in entries.items()}
        (entry,) = document[AT].values()
        document[AT]["expired"] = {**entry, "target": "s7", "expires_on": "1000", "extended_expires_on": "1000"}
        with open(location, "w", encoding="utf-8") as file:
            json.dump(document, file)
        app = self.application(cache)
        (account,) = app.get_accounts()
        app.remove_account(account)
        document = json.load(open(location, encoding="utf-8"))
        assert [document[section] for section in (AT, RT, IDT, ACCOUNT)] == [{}, {}, {}, {}]
        assert document[APP]

    def test_it_holds_against_a_program_that_writes_everything_back(self, cache, location):
        cache.add(user_event())
        with open(location, encoding="utf-8") as file:
            before = file.read()
        app = self.application(cache)
        (account,) = app.get_accounts()
        app.remove_account(account)
        with open(location, "w", encoding="utf-8") as file:
            file.write(before)
        another = strongroom.PersistedTokenCache(strongroom.FilePersistence(location))
        for kind in (AT, RT, IDT, ACCOUNT):
            assert list(another.search(kind)) == [], kind
        document = json.load(open(location, encoding="utf-8"))
        assert not any(document[section] for section in (AT, RT, IDT, ACCOUNT))


class TestMemory:
    def test_serialize_reads_nothing_and_deserialize_writes_nothing(self, cache, location):
        assert cache.serialize() == "{}"
        other = strongroom.PersistedTokenCache(strongroom.FilePersistence(location))
        other.add(app_token_event())
        assert cache.serialize() == "{}"
        list(cache.search(AT))
        assert json.loads(cache.serialize()) == json.loads(other.serialize())
        before = os.stat(location).st_mtime_ns
        cache.deserialize('{"AccessToken": {}}')
        assert cache.serialize() == '{"AccessToken": {}}' and os.stat(location).st_mtime_ns == before

    def test_what_was_deserialized_holds_until_the_file_changes_and_goes_with_the_next_write(self, cache, location):
        old = msal.SerializableTokenCache()
        old.add(app_token_event("migrated"))
        cache.deserialize(old.serialize())
        query = app_token_query("migrated")
        assert len(list(cache.search(AT, target=["s1"], query=query))) == 1
        assert not os.path.exists(location)
        cache.add(app_token_event("new"))
        clients = {entry["client_id"] for entry in json.load(open(location, encoding="utf-8"))[AT].values()}
        assert clients == {"migrated", "new"}

        cache.deserialize(None)
        assert list(cache.search(AT)) == []
        other = strongroom.PersistedTokenCache(strongroom.FilePersistence(location))
        other.add(app_token_event("third"))
        assert len(list(cache.search(AT))) == 3

    def test_deserialize_complains_as_json_does(self, cache):
        for state in ("no JSON", "{"):
            with pytest.raises(json.JSONDecodeError):
                cache.deserialize(state)
        with pytest.raises(ValueError):
            cache.deserialize("[]")
        cache.deserialize("")
        assert cache.serialize() == "{}"

    def test_app_metadata_is_taken_from_memory(self, cache, location):
        other = strongroom.PersistedTokenCache(strongroom.FilePersistence(location))
        other.add(user_event(response={"foci": "1"}))
        ask = {"environment": ENVIRONMENT, "client_id": "client", "default": {}}
        assert cache._get_app_metadata(**ask) == {}
        list(cache.search(ACCOUNT))
        assert cache._get_app_metadata(**ask)["family_id"] == "1"

    def test_the_view_of_what_is_in_memory_cannot_be_changed(self, cache):
        cache.add(app_token_event())
        with pytest.raises(TypeError):
            cache._cache[AT] = {}
        with pytest.raises(AttributeError):
            cache._cache = {AT: {}}

    def test_a_cache_is_never_falsy(self, cache):
        assert cache and not hasattr(cache, "__len__")


class TestSubclasses:
    def test_modify_and_search_that_are_overridden_are_called_for_every_change_and_read(self, location):
        calls = []

        class Mine(strongroom.PersistedTokenCache):
            def modify(self, credential_type, old_entry, new_key_value_pairs=None):
                calls.append(credential_type)
                super().modify(credential_type, old_entry, new_key_value_pairs)

            def search(self, credential_type, **kwargs):
                calls.append("search")
                return super().search(credential_type, **kwargs)

        cache = Mine(strongroom.FilePersistence(location))
        cache.add(user_event())
        assert calls == [AT, ACCOUNT, IDT, RT, APP]
        cache.remove_at(next(cache.search(AT)))
        assert calls[5:] == ["search", AT]

    def test_a_change_that_fails_in_between_stores_nothing_of_the_step(self, location):
        class Mine(strongroom.PersistedTokenCache):
            def modify(self, credential_type, old_entry, new_key_value_pairs=None):
                if credential_type == RT:
                    raise LookupError("mine")
                super().modify(credential_type, old_entry, new_key_value_pairs)

        cache = Mine(strongroom.FilePersistence(location))
        with pytest.raises(LookupError, match="mine"):
            cache.add(user_event())
        assert not os.path.exists(location)
        cache.add(app_token_event())
        assert list(json.load(open(location, encoding="utf-8"))) == [AT, APP]

    def test_a_key_maker_of_ones_own_says_where_new_entries_go(self, cache):
        cache.key_makers[AT] = lambda **entry: f"mine-{entry['client_id']}"
        cache.add(app_token_event())
        assert list(cache._cache[AT]) == ["mine-client"]
        cache.add(app_token_event(secret="second"))
        assert [entry["secret"] for entry in cache._cache[AT].values()] == ["second"]
        cache.remove_at(next(cache.search(AT)))
        assert cache._cache[AT] == {}

    def test_fields_of_ones_own_are_kept(self, cache):
        cache.add(app_token_event())
        entry = next(cache.search(AT))
        cache.modify(AT, entry, {"mine": {"x": [1, None]}})
        assert next(cache.search(AT, query={"mine": {"x": [1, None]}}))["mine"] == {"x": [1, None]}

    def test_an_entry_that_would_blind_others_is_refused(self, cache, location):
        with pytest.raises(ValueError, match="expires_on"):
            cache.modify(AT, {"secret": "x", "environment": ENVIRONMENT}, {"secret": "y"})
        with pytest.raises(KeyError):
            cache.modify("nonsense", {}, {})
        assert not os.path.exists(location)


class TestFailures:
    def test_a_damaged_file_is_reported_to_readers_and_moved_aside_by_writers(self, cache, location):
        with open(location, "w", encoding="utf-8") as file:
            file.write('{"AccessToken": {')
        with pytest.raises(json.JSONDecodeError) as raised:
            list(cache.search(AT))
        assert raised.value.code == "damaged" and raised.value.remedy
        cache.add(app_token_event())
        assert len(list(cache.search(AT))) == 1
        assert any(".corrupt-" in name for name in os.listdir(os.path.dirname(location)))

    def test_what_is_no_cache_is_refused_and_left_alone(self, cache, location):
        with open(location, "w", encoding="utf-8") as file:
            file.write("STRONGROOM or something else")
        for call in (lambda: list(cache.search(AT)), lambda: cache.add(app_token_event())):
            with pytest.raises(ValueError):
                call()
        assert open(location, encoding="utf-8").read() == "STRONGROOM or something else"

    def test_a_directory_in_its_place_is_an_os_error(self, tmp_path):
        (tmp_path / "folder").mkdir()
        cache = strongroom.PersistedTokenCache(strongroom.FilePersistence(str(tmp_path / "folder")))
        for call in (lambda: list(cache.search(AT)), lambda: cache.add(app_token_event())):
            with pytest.raises(IsADirectoryError):
                call()

    def test_a_lock_that_is_held_is_a_lock_error(self, location):
        cache = strongroom.PersistedTokenCache(strongroom.FilePersistence(location), lock_timeout=0.1)
        with strongroom.CrossPlatLock(location + ".lockfile"):
            with pytest.raises(strongroom.LockError):
                cache.add(app_token_event())
            assert list(cache.search(AT)) == []

    def test_a_lock_file_that_is_something_else_is_refused(self, location):
        persistence = strongroom.FilePersistence(location)
        for lock in (location, location + ".lock", location + ".state"):
            with pytest.raises(ValueError):
                strongroom.PersistedTokenCache(persistence, lock)

    def test_the_lock_file_can_lie_elsewhere_and_its_folder_is_made(self, location, tmp_path):
        lock = str(tmp_path / "locks" / "mine")
        cache = strongroom.PersistedTokenCache(strongroom.FilePersistence(location), lock, lock_timeout=0.1)
        with strongroom.CrossPlatLock(lock):
            with pytest.raises(strongroom.LockError):
                cache.add(app_token_event())
        cache.add(app_token_event())

    def test_construction_touches_neither_the_file_nor_the_lock(self, location):
        strongroom.PersistedTokenCache(strongroom.FilePersistence(location))
        assert os.listdir(os.path.dirname(location)) == ["home"]


def test_a_rewrite_that_leaves_the_time_as_it_was_is_seen_and_so_is_a_removal(cache, location):
    cache.add(app_token_event(secret="one!"))
    other = strongroom.PersistedTokenCache(strongroom.FilePersistence(location))
    stamps = os.stat(location)
    other.add(app_token_event(secret="two!"))
    os.utime(location, ns=(stamps.st_atime_ns, stamps.st_mtime_ns))
    assert next(cache.search(AT))["secret"] == "two!"
    os.remove(location)
    assert list(cache.search(AT)) == []


def test_an_answer_that_is_remembered_is_as_good_as_a_new_one(cache, location):
    now = int(time.time())
    ask = {"target": ["s1"], "query": app_token_query()}
    find = lambda now=now: [one["secret"] for one in cache.search(AT, **ask, now=now)]  # noqa: E731
    event = app_token_event(scope="s1 s2", secret="short", response={"access_token": "short", "expires_in": 400})
    cache.add(event, now=now)
    cache.add(app_token_event(scope="s1 s3", secret="long"), now=now - 1)
    assert find() == find() == ["short", "long"]
    assert find(now + 401) == ["long"] and find() == ["short", "long"]
    # What a caller does to an entry is nobody else's.
    next(cache.search(AT, **ask, now=now)).clear()
    assert find() == ["short", "long"]
    strongroom.PersistedTokenCache(strongroom.FilePersistence(location)).add(app_token_event(secret="third"), now=now)
    assert find() == find() == ["third", "short", "long"]
    assert len(list(cache.search(AT, target=["s1"], query={**app_token_query(), "x": ["cannot be hashed"]}))) == 0
    # Neither is a field a scope, nor the other way round.
    assert len(list(cache.search(AT, target=[], query={"realm": "tenant"}, now=now))) == 3
    assert list(cache.search(AT, target=["realm", "tenant"], query={}, now=now)) == []
    cache.deserialize("{}")
    assert find() == find() == []
    os.remove(location)
    assert find() == []


def test_what_lies_within_an_entry_is_not_shared_by_those_who_ask_the_same(cache, location):
    cache.add(app_token_event())
    document = json.load(open(location, encoding="utf-8"))
    next(iter(document[AT].values()))["nested"] = {"kept": []}
    with open(location, "w", encoding="utf-8") as file:
        json.dump(document, file)
    for _ in range(2):
        nested = next(cache.search(AT, target=["s1"], query=app_token_query()))["nested"]
        assert nested == {"kept": []}
        nested["kept"].append("by its caller")


def test_a_look_up_is_as_fast_in_a_large_cache(cache, location, monkeypatch):
    """Not by the clock: what is looked at is counted."""
    now = int(time.time())
    entry = {
        "credential_type": "AccessToken",
        "home_account_id": None,
        "environment": ENVIRONMENT,
        "client_id": "client",
        "realm": "tenant",
        "token_type": "Bearer",
        "cached_at": str(now),
        "expires_on": str(now + 3600),
        "extended_expires_on": str(now + 3600),
    }
    many = {
        f"-{ENVIRONMENT}-accesstoken-client{n}-tenant-s1": {**entry, "client_id": f"client{n}", "secret": "x", "target": "s1"}
        for n in range(5000)
    }
    with open(location, "w", encoding="utf-8") as file:
        json.dump({AT: many}, file)
    for n in (0, 4999):
        (found,) = cache.search(AT, target=["s1"], query=app_token_query(f"client{n}"))
        assert found["client_id"] == f"client{n}"
