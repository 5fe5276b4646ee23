"""The cache in front of credentials of azure-identity: whose tokens they are, and when which one is served."""

from __future__ import annotations

import asyncio
import copy
import functools
import gc
import hashlib
import json
import logging
import os
import pathlib
import pickle
import subprocess
import sys
import threading
import time
import types

import pytest

pytest.importorskip("azure.identity")
from azure.core.credentials import AccessToken, AccessTokenInfo, SupportsTokenInfo, TokenCredential
from azure.core.credentials_async import AsyncSupportsTokenInfo, AsyncTokenCredential
from azure.core.pipeline.transport import AsyncioRequestsTransport
import azure.identity
import azure.identity.aio

import strongroom
import strongroom.azure
import strongroom.azure.aio
from conftest import in_child, needs_fork
from strongroom.azure import PersistedCredential, _tokens
from strongroom.azure._identity import identity_of

AT, SCOPE = "AccessToken", "https://api.example/.default"


class Fake:
    """A credential that gives token after token, or raises, or waits."""

    def __init__(self, lifetime=3600, refresh_in=None, token_type="Bearer"):
        self.lifetime, self.refresh_in, self.token_type = lifetime, refresh_in, token_type
        self.asked, self.error, self.closed, self.entered = [], None, 0, 0
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()

    def get_token_info(self, *scopes, options=None):
        self.asked.append((scopes, dict(options or {})))
        number = len(self.asked)
        self.begun.set()
        assert self.gate.wait(60)
        if self.error:
            raise self.error
        now = int(time.time())
        refresh_on = None if self.refresh_in is None else now + self.refresh_in
        return AccessTokenInfo(f"token-{number}", now + self.lifetime, token_type=self.token_type, refresh_on=refresh_on)

    def __enter__(self):
        self.entered += 1
        return self

    def __exit__(self, *args):
        self.close()

    def close(self):
        self.closed += 1


class Old:
    """One that has only the older method, and knows no options."""

    def __init__(self):
        self.asked = []

    def get_token(self, *scopes, **kwargs):
        self.asked.append((scopes, kwargs))
        return AccessToken(f"old-{len(self.asked)}", int(time.time()) + 3600)


class AsyncFake:
    """The same as `Fake`, asynchronous."""

    def __init__(self, **kwargs):
        self.fake, self.gate, self.closed = Fake(**kwargs), None, 0

    async def get_token_info(self, *scopes, options=None):
        error, self.fake.error = self.fake.error, None
        info = self.fake.get_token_info(*scopes, options=options)
        self.fake.error = error
        if self.gate:
            await self.gate.wait()
        if error:
            raise error
        return info

    async def close(self):
        self.closed += 1


@pytest.fixture()
def cache(location):
    return strongroom.PersistedTokenCache(strongroom.FilePersistence(location))


@pytest.fixture(autouse=True)
def nothing_is_claimed(monkeypatch):
    monkeypatch.setattr(_tokens, "_claims", {})


def persisted(inner, cache, kind=PersistedCredential):
    return kind(inner, cache=cache, identity="somebody")


def aged(credential, age, lifetime=3600, refresh_in=None):
    """Stores a token as it was issued `age` seconds ago."""
    began = int(time.time()) - age
    refresh_on = None if refresh_in is None else began + refresh_in
    ask = credential._tokens.ask((SCOPE,), {})
    credential._tokens._cache.add(
        {
            "client_id": ask.client_id,
            "scope": [SCOPE],
            "token_endpoint": f"https://{ask.environment}/{ask.realm}/oauth2/v2.0/token",
            "environment": ask.environment,
            "response": {
                "access_token": "aged",
                "expires_in": lifetime,
                **({} if refresh_on is None else {"refresh_in": refresh_in}),
            },
        },
        now=began,
    )


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


DAEMON = """
import sys
from azure.identity import ClientSecretCredential
from strongroom.azure import PersistedCredential

authority, tenant, client_id, secret, scope, ca_file, location = sys.argv[1:]
inner = ClientSecretCredential(
    tenant, client_id, secret, authority=authority, disable_instance_discovery=True, connection_verify=ca_file
)
with PersistedCredential(inner, cache=location) as credential:
    print(credential.get_token(scope).token)
"""
ASYNC_DAEMON = """
import asyncio, sys
from azure.core.pipeline.transport import AsyncioRequestsTransport
from azure.identity.aio import ClientSecretCredential
from strongroom.azure.aio import PersistedCredential

authority, tenant, client_id, secret, scope, ca_file, location = sys.argv[1:]

async def main():
    inner = ClientSecretCredential(
        tenant, client_id, secret, authority=authority, disable_instance_discovery=True,
        transport=AsyncioRequestsTransport(connection_verify=ca_file),
    )
    async with PersistedCredential(inner, cache=location) as credential:
        print((await credential.get_token(scope)).token)

asyncio.run(main())
"""


def arguments_of(sts, location):
    authority, tenant = sts.authority.rsplit("/", 1)
    return [authority, tenant, sts.client_id, sts.client_secret, sts.scope, sts.ca_file, location]


@pytest.mark.parametrize("programs", [(DAEMON, DAEMON), (ASYNC_DAEMON, ASYNC_DAEMON), (DAEMON, ASYNC_DAEMON)])
def test_a_second_process_finds_the_token_of_the_first(programs, sts, python, location):
    arguments = arguments_of(sts, location)
    first, second = (python(program, *arguments).stdout for program in programs)
    assert first and first == second and sts.requests() == 1
    assert first.strip().encode() not in open(location, "rb").read(), "a path is that of an encrypted file"


def test_neither_the_real_msal_nor_another_credential_finds_it(sts, cache):
    authority, tenant, client_id, secret, scope, ca_file, _ = arguments_of(sts, "")
    options = {"authority": authority, "disable_instance_discovery": True, "connection_verify": ca_file}
    inner = azure.identity.ClientSecretCredential(tenant, client_id, secret, **options)
    token = PersistedCredential(inner, cache=cache).get_token(scope).token
    assert sts.application(cache).acquire_token_for_client([scope])["access_token"] != token
    with pytest.raises(Exception):
        other = azure.identity.ClientSecretCredential(tenant, "another", secret, **options)
        PersistedCredential(other, cache=cache).get_token(scope)
    assert PersistedCredential(inner, cache=cache).get_token(scope).token == token


def test_the_rest_of_the_world_sees_an_entry_that_it_can_read(cache, location):
    persisted(Fake(), cache).get_token(SCOPE)
    document = json.load(open(location, encoding="utf-8"))
    (entry,) = document[AT].values()
    assert entry["client_id"].startswith("identity:") and "somebody" not in entry["client_id"]
    assert (entry["secret"], entry["target"], entry["token_type"]) == ("token-1", SCOPE, "Bearer")
    assert list(document["AppMetadata"].values()) == [
        {"client_id": entry["client_id"], "environment": entry["environment"]}
    ]


class TestIdentity:
    APP = {"tenant_id": "tenant", "client_id": "client"}
    KINDS = {
        "secret": (lambda module: module.ClientSecretCredential("tenant", "client", "secret"), 2),
        "another secret": (lambda module: module.ClientSecretCredential("tenant", "client", "x"), 2),
        "another client": (lambda module: module.ClientSecretCredential("tenant", "other", "secret"), 2),
        "another tenant": (lambda module: module.ClientSecretCredential("other", "client", "secret"), 2),
        "another cloud": (
            lambda module: module.ClientSecretCredential(
                "tenant", "client", "secret", authority="login.microsoftonline.us"
            ),
            2,
        ),
        "other tenants allowed": (
            lambda module: module.ClientSecretCredential(
                "tenant", "client", "secret", additionally_allowed_tenants=["*"]
            ),
            2,
        ),
        "assertion": (lambda module: module.ClientAssertionCredential("tenant", "client", lambda: "x"), 2),
        "workload": (
            lambda module: module.WorkloadIdentityCredential(**TestIdentity.APP, token_file_path="x"),
            2,
        ),
        "on behalf": (
            lambda module: module.OnBehalfOfCredential(
                "tenant", "client", client_secret="x", user_assertion="one"
            ),
            2,
        ),
        "on behalf of another": (
            lambda module: module.OnBehalfOfCredential(
                "tenant", "client", client_secret="x", user_assertion="two"
            ),
            2,
        ),
        "password": (lambda module: module.UsernamePasswordCredential("client", "user", "x", tenant_id="tenant"), 1),
        "another user": (lambda module: module.UsernamePasswordCredential("client", "other", "x", tenant_id="tenant"), 1),
        "cli": (lambda module: module.AzureCliCredential(), 2),
        "cli, tenant": (lambda module: module.AzureCliCredential(tenant_id="tenant"), 2),
        "cli, subscription": (lambda module: module.AzureCliCredential(subscription="one"), 2),
        "azd": (lambda module: module.AzureDeveloperCliCredential(), 2),
        "powershell": (lambda module: module.AzurePowerShellCredential(), 2),
        "the machine": (lambda module: module.ManagedIdentityCredential(), 2),
        "assigned": (lambda module: module.ManagedIdentityCredential(client_id="client"), 2),
        "assigned, other": (lambda module: module.ManagedIdentityCredential(client_id="other"), 2),
        "assigned, object": (lambda module: module.ManagedIdentityCredential(identity_config={"object_id": "client"}), 2),
        "chain": (
            lambda module: module.ChainedTokenCredential(
                module.AzureCliCredential(), module.ClientSecretCredential("tenant", "client", "secret")
            ),
            2,
        ),
        "chain, other": (
            lambda module: module.ChainedTokenCredential(
                module.AzureCliCredential(), module.ClientSecretCredential("tenant", "other", "secret")
            ),
            2,
        ),
        # Its asynchronous form has fewer members.
        "default": (lambda module: module.DefaultAzureCredential(), 1),
        "default, other": (lambda module: module.DefaultAzureCredential(managed_identity_client_id="other"), 1),
        "environment": (lambda module: module.EnvironmentCredential(), 2),
        "pipelines": (
            lambda module: module.AzurePipelinesCredential(
                tenant_id="tenant", client_id="client", service_connection_id="one", system_access_token="x"
            ),
            2,
        ),
        "known user": (lambda module: module.DeviceCodeCredential(authentication_record=record("one")), 1),
        "known user, other": (lambda module: module.DeviceCodeCredential(authentication_record=record("two")), 1),
    }

    def of(self, name, module):
        identity = identity_of(self.KINDS[name][0](module))
        return (*identity[:-1], identity.client_id())

    def id_of(self, name, module=azure.identity):
        client_id = self.of(name, module)[-1]
        assert client_id is not None
        return client_id

    @pytest.fixture(autouse=True)
    def who_is_signed_in(self, home):
        """Somebody, in each of the tools."""
        sign_in(home, azure="alice", azd="alice", powershell="alice")

    @pytest.fixture(autouse=True)
    def an_async_transport(self, monkeypatch):
        """So that aiohttp is not needed."""
        from azure.identity.aio._internal import aad_client
        from azure.identity.aio._internal import managed_identity_client

        for module in (aad_client, managed_identity_client):
            build = module.build_async_pipeline
            monkeypatch.setattr(
                module,
                "build_async_pipeline",
                lambda build=build, **kwargs: build(**{"transport": AsyncioRequestsTransport(), **kwargs}),
            )

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_each_is_its_own_and_the_same_each_time_and_in_both_forms(self):
        seen = {}
        for name, (_, forms) in self.KINDS.items():
            own = self.of(name, azure.identity)
            assert identity_of(self.KINDS[name][0](azure.identity)).is_certain and own[-1], name
            assert own == self.of(name, azure.identity), name
            if forms == 2:
                assert own[-1] == self.id_of(name, azure.identity.aio), name
            seen.setdefault(own[-1], []).append(name)
        # A secret can be changed, and the identity stays.
        assert [names for names in seen.values() if len(names) > 1] == [["secret", "another secret"]]

    def test_a_certificate_stands_for_its_application(self, tmp_path):
        pem = certificate(tmp_path)
        ids = {
            identity_of(module.CertificateCredential("tenant", client, pem)).client_id()
            for module in (azure.identity, azure.identity.aio)
            for client in ("client", "other")
        }
        assert len(ids) == 2 and all(one.startswith("CertificateCredential:") for one in ids)

    def test_what_lies_where_comes_from_the_credential(self):
        own = identity_of(self.KINDS["another cloud"][0](azure.identity))
        assert (own.environment, own.realm) == ("login.microsoftonline.us", "tenant")
        own = identity_of(self.KINDS["cli"][0](azure.identity))
        assert (own.environment, own.realm) == ("login.microsoftonline.com", "organizations")

    def test_an_identity_of_the_environment_is_that_of_what_it_holds(self, monkeypatch):
        for name, value in (("TENANT_ID", "tenant"), ("CLIENT_ID", "client"), ("CLIENT_SECRET", "secret")):
            monkeypatch.setenv(f"AZURE_{name}", value)
        first = self.of("environment", azure.identity)
        monkeypatch.setenv("AZURE_CLIENT_ID", "other")
        assert first != self.of("environment", azure.identity)

    TOOLS = {"cli": "azure", "azd": "azd", "powershell": "powershell"}

    @pytest.mark.parametrize("tool", TOOLS)
    @pytest.mark.parametrize("within", ["alone", "default", "a chain", "another class"])
    def test_after_another_sign_in_the_tokens_are_others(self, tool, within, home, cache):
        fakes = []

        def fake():
            made = self.KINDS["default" if within == "default" else tool][0](azure.identity)
            if within == "a chain":
                made = azure.identity.ChainedTokenCredential(self.KINDS["assigned"][0](azure.identity), made)
            if within == "another class":
                made = Holding(made)
            fakes.append(Fake())
            made.get_token_info = fakes[-1].get_token_info
            return made

        credential = PersistedCredential(fake(), cache=cache)
        assert [credential.get_token(SCOPE).token for _ in range(2)] == ["token-1"] * 2
        sign_in(home, **{self.TOOLS[tool]: "bob"})
        assert [credential.get_token(SCOPE).token for _ in range(2)] == ["token-2"] * 2
        if within != "another class":
            # Another process sees the same.
            assert PersistedCredential(fake(), cache=cache).get_token(SCOPE).token == "token-2"
        sign_in(home, **{self.TOOLS[tool]: "alice"})
        assert credential.get_token(SCOPE).token == "token-1"
        assert len(fakes[0].asked) == 2

    def test_the_asynchronous_form_sees_another_sign_in_too(self, home, cache):
        async def main():
            fake = AsyncFake()
            inner = azure.identity.aio.AzureCliCredential()
            inner.get_token_info = fake.get_token_info
            credential = strongroom.azure.aio.PersistedCredential(inner, cache=cache)
            tokens = []
            for user in ("alice", "alice", "bob", None):
                sign_in(home, azure=user)
                tokens.append((await credential.get_token(SCOPE)).token)
            assert tokens == ["token-1", "token-1", "token-2", "token-3"]

        asyncio.run(main())

    def test_a_token_that_somebody_signs_in_during_is_not_kept(self, home, cache):
        inner, fake = azure.identity.AzureCliCredential(), Fake()

        def get_token_info(*scopes, options=None):
            sign_in(home, azure="bob")
            return fake.get_token_info(*scopes, options=options)

        inner.get_token_info = get_token_info
        credential = PersistedCredential(inner, cache=cache)
        assert credential.get_token(SCOPE).token == "token-1"
        assert list(cache.search(AT)) == []
        assert [credential.get_token(SCOPE).token for _ in range(2)] == ["token-2"] * 2
        (entry,) = cache.search(AT)
        assert entry["secret"] == "token-2"

    @pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"subscriptions": 1}', b'{"subscriptions": [{"isDefault": true}]}'])
    def test_where_nobody_can_tell_who_is_signed_in_nothing_is_kept(self, content, home, cache, caplog):
        profile = home / ".azure" / "azureProfile.json"
        profile.unlink()
        if content is not None:
            profile.write_bytes(content)
        inner, fake = azure.identity.AzureCliCredential(), Fake()
        inner.get_token_info = fake.get_token_info
        credential = PersistedCredential(inner, cache=cache)
        (record,) = [record for record in caplog.records if record.name == "strongroom.azure"]
        assert "identity=" in record.getMessage()
        assert [credential.get_token(SCOPE).token for _ in range(2)] == ["token-1", "token-2"]
        assert list(cache.search(AT)) == []
        sign_in(home, azure="bob")
        assert [credential.get_token(SCOPE).token for _ in range(2)] == ["token-3"] * 2
        named = PersistedCredential(inner, cache=cache, identity="bob")
        profile.unlink()
        assert [named.get_token(SCOPE).token for _ in range(2)] == ["token-4"] * 2

    def test_a_machine_without_these_tools_has_certain_chains(self, home, caplog, cache):
        for user in ({"azure": None}, {"azd": None}, {"powershell": None}):
            sign_in(home, **user)
        for _ in range(2):
            PersistedCredential(azure.identity.DefaultAzureCredential(), cache=cache)
        assert self.id_of("default") and not [one for one in caplog.records if one.name == "strongroom.azure"]

    def test_a_subscription_is_that_of_its_own_user(self, home):
        before = self.id_of("cli, subscription")
        sign_in(home, azure="bob")
        assert self.id_of("cli, subscription") == before
        sign_in(home, azure="alice", one="bob")
        assert self.id_of("cli, subscription") != before

    def test_the_developer_cli_may_use_the_azure_cli(self, home):
        (home / ".azd" / "config.json").write_text('{"auth": {"useAzCliAuth": "true"}}')
        before = self.id_of("azd")
        sign_in(home, azd="bob")
        assert self.id_of("azd") == before
        sign_in(home, azure="bob")
        assert self.id_of("azd") != before

    def test_a_sign_in_is_read_again_only_when_its_file_has_changed(self, home, monkeypatch):
        path = home / ".azure" / "azureProfile.json"
        long_ago = time.time() - 1000

        def write(user):
            sign_in(home, azure=user)
            os.utime(path, (long_ago, long_ago))
            return self.id_of("cli")

        first = write("alice")
        identity = identity_of(azure.identity.AzureCliCredential())
        with monkeypatch.context() as patch:
            patch.setattr("builtins.open", lambda *arguments, **options: 1 / 0)
            assert identity.client_id() == first
        # Of the same size and age.
        assert write("bobby") != first
        assert write("alice") == first

    def test_settings_of_powershell_say_where_its_sign_in_is(self, home, tmp_path):
        before = self.id_of("powershell")
        settings = {"ContextDirectory": str(tmp_path), "ContextFile": "mine.json"}
        (home / ".Azure" / "AzureRmContextSettings.json").write_text(json.dumps(settings))
        assert self.of("powershell", azure.identity)[-1] is None
        (home / ".Azure" / "AzureRmContext.json").rename(tmp_path / "mine.json")
        assert self.id_of("powershell") != before

    def test_the_shared_cache_is_another_when_it_has_changed(self, home):
        make = lambda **options: identity_of(azure.identity.SharedTokenCacheCredential(**options))  # noqa: E731
        assert make().client_id() is None
        default = self.id_of("default")
        (home / ".IdentityService").mkdir()
        (home / ".IdentityService" / "msal.cache.nocae").write_text("one")
        first = make().client_id()
        assert first and self.id_of("default") != default
        assert first == make().client_id() != make(authority="login.microsoftonline.us").client_id()
        (home / ".IdentityService" / "msal.cache.nocae").write_text("another")
        assert make().client_id() not in (None, first)
        assert make(username="alice").client_id() != make(username="bob").client_id()
        known = [make(authentication_record=record(user)).client_id() for user in ("one", "two")]
        assert len({*known, first}) == 3

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_every_identity_is_one_of_its_cloud(self):
        for name in ("secret", "assertion", "environment", "password", "on behalf", "default", "workload"):
            with pytest.MonkeyPatch.context() as patch:
                for variable, value in (("TENANT_ID", "t"), ("CLIENT_ID", "c"), ("CLIENT_SECRET", "s")):
                    patch.setenv(f"AZURE_{variable}", value)
                before = self.id_of(name)
                patch.setenv("AZURE_AUTHORITY_HOST", "login.microsoftonline.us")
                assert self.id_of(name) != before, name

    def test_one_that_never_goes_to_another_tenant_is_not_one_that_does(self, monkeypatch):
        before = self.id_of("other tenants allowed")
        monkeypatch.setenv("AZURE_IDENTITY_DISABLE_MULTITENANTAUTH", "1")
        assert self.id_of("other tenants allowed") != before

    def test_a_broker_that_is_there_could_be_anybodys(self):
        for make in (azure.identity.VisualStudioCodeCredential, azure.identity._credentials.broker.BrokerCredential):
            inner = make()
            assert identity_of(inner).is_certain
            inner._broker_credential = Fake()
            assert not identity_of(inner).is_certain

    def test_a_user_who_signs_in_in_place_of_the_known_one_is_another(self, cache):
        inner, fake = azure.identity.DeviceCodeCredential(authentication_record=record("one")), Fake()

        def get_token_info(*scopes, options=None):
            inner._auth_record = record("two")
            return fake.get_token_info(*scopes, options=options)

        inner.get_token_info = get_token_info
        credential = PersistedCredential(inner, cache=cache)
        assert credential.get_token(SCOPE).token == "token-1" and list(cache.search(AT)) == []
        assert [credential.get_token(SCOPE).token for _ in range(2)] == ["token-2"] * 2
        again = azure.identity.DeviceCodeCredential(authentication_record=record("one"))
        again.get_token_info = fake.get_token_info
        assert PersistedCredential(again, cache=cache).get_token(SCOPE).token == "token-3"

    def test_the_identity_of_a_machine_is_not_that_of_another(self, monkeypatch):
        machine, assigned = (self.of(name, azure.identity) for name in ("the machine", "assigned"))
        monkeypatch.setattr("platform.node", lambda: "another")
        assert self.of("the machine", azure.identity) != machine
        assert self.of("assigned", azure.identity) == assigned

    def test_each_application_of_a_service_fabric_has_its_own(self, monkeypatch):
        monkeypatch.setenv("IDENTITY_ENDPOINT", "https://localhost:1/token")
        monkeypatch.setenv("IDENTITY_SERVER_THUMBPRINT", "x")
        monkeypatch.setenv("IDENTITY_HEADER", "that of one application")
        first = self.id_of("the machine")
        assert self.id_of("the machine") == first
        monkeypatch.setenv("IDENTITY_HEADER", "that of another")
        assert self.id_of("the machine") != first

    def test_that_of_an_app_service_is_the_same_on_all_its_machines(self, monkeypatch):
        monkeypatch.setenv("IDENTITY_ENDPOINT", "http://localhost:1/token")
        monkeypatch.setenv("IDENTITY_HEADER", "x")
        monkeypatch.setenv("WEBSITE_HOSTNAME", "one.azurewebsites.net")
        first = self.of("the machine", azure.identity)
        monkeypatch.setattr("platform.node", lambda: "another")
        assert self.of("the machine", azure.identity) == first
        monkeypatch.setenv("WEBSITE_HOSTNAME", "one-staging.azurewebsites.net")
        assert self.of("the machine", azure.identity) != first

    @pytest.mark.parametrize(
        "make",
        [
            Fake,
            Old,
            azure.identity.DeviceCodeCredential,
            azure.identity.InteractiveBrowserCredential,
            lambda: azure.identity.ChainedTokenCredential(azure.identity.AzureCliCredential(), Fake()),
            lambda: azure.identity.AuthorizationCodeCredential("tenant", "client", "code", "https://here"),
            lambda: type("Mine", (azure.identity.ClientSecretCredential,), {})("tenant", "client", "secret"),
        ],
    )
    def test_what_says_nothing_may_be_there_once(self, make, cache, caplog):
        first = make()
        PersistedCredential(first, cache=cache)
        (record,) = [record for record in caplog.records if record.name == "strongroom.azure"]
        assert "identity=" in record.getMessage()
        PersistedCredential(first, cache=cache)
        with pytest.raises(ValueError, match="identity="):
            PersistedCredential(make(), cache=cache)
        # One that is gone may have been another user's.
        del first
        gc.collect()
        with pytest.raises(ValueError, match="identity="):
            PersistedCredential(make(), cache=strongroom.PersistedTokenCache(cache._persistence))
        PersistedCredential(make(), cache=cache, identity="one")
        PersistedCredential(make(), cache=cache, identity="two")

    def test_the_program_has_the_last_word(self, cache):
        with pytest.raises(ValueError, match="empty"):
            PersistedCredential(Fake(), cache=cache, identity="")
        one, same, other = (Fake(), Fake(), Fake())
        for inner, identity in ((one, "one"), (same, "one"), (other, "other")):
            PersistedCredential(inner, cache=cache, identity=identity).get_token(SCOPE)
        assert [len(inner.asked) for inner in (one, same, other)] == [1, 0, 1]

    AUTH = """
import time
from azure.core.credentials import AccessToken

class Settings:
    def __init__(self, user):
        self.user = user

class Credential:
    def __init__(self, user, deep=None, secret="s3cret"):
        self.user, self.settings, self.secret = user, [Settings(deep)], secret
    def get_token(self, *scopes, **kwargs):
        return AccessToken(f"token of {self.user} {self.settings[0].user}", int(time.time()) + 3600)
"""
    PROGRAM = """
import sys
import auth
from strongroom.azure import PersistedCredential
print(PersistedCredential(auth.Credential(*sys.argv[2:]), cache=sys.argv[1]).get_token("scope").token)
"""

    def program(self, folder, text=PROGRAM):
        folder.mkdir(exist_ok=True)
        (folder / "auth.py").write_text(self.AUTH)
        (folder / "program.py").write_text(text)
        return folder / "program.py"

    def run(self, *arguments):
        done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def tokens(self, location):
        return len(list(strongroom.PersistedTokenCache(strongroom.build_encrypted_persistence(location)).search(AT)))

    def test_a_program_finds_what_its_own_class_has_stored(self, tmp_path, location):
        program = self.program(tmp_path / "one")
        for _ in range(2):
            assert self.run(program, location, "alice") == "token of alice None"
        assert self.tokens(location) == 1

    def test_a_class_of_the_same_name_in_another_program_is_another(self, tmp_path, location):
        for name in ("one", "two"):
            self.run(self.program(tmp_path / name), location, "alice")
        assert self.tokens(location) == 2

    def test_the_same_class_in_another_program_is_another(self, tmp_path, location):
        program = self.program(tmp_path / "one")
        self.run(program, location, "alice")
        second = program.with_name("second.py")
        second.write_text(program.read_text())
        self.run(second, location, "alice")
        assert self.tokens(location) == 2

    def test_a_program_without_a_file_finds_nothing_of_another_process(self, tmp_path, location):
        program = self.program(tmp_path / "one")
        code = f"import sys; sys.path.insert(0, {str(program.parent)!r})" + program.read_text()
        for _ in range(2):
            self.run("-c", code, location, "alice")
        assert self.tokens(location) == 2

    def test_the_same_class_for_another_user_is_another(self, tmp_path, location):
        program = self.program(tmp_path / "one")
        users = [("alice",), ("bob",), ("alice", "deep"), ("alice", "deep", "another secret")]
        for user in users:
            token = self.run(program, location, *user)
            assert token == f"token of {user[0]} {user[1] if len(user) > 1 else None}"
        assert self.tokens(location) == len(users)

    @pytest.mark.skipif(not hasattr(os, "getuid"), reason="users have no numbers here")
    def test_the_same_program_for_another_user_of_the_machine_is_another(self, monkeypatch):
        before = identity_of(Fake()).client_id()
        assert identity_of(Fake()).client_id() == before
        monkeypatch.setattr(os, "getuid", lambda: 4711)
        assert identity_of(Fake()).client_id() != before

    def test_everything_plain_that_can_be_seen_of_a_credential_sets_it_apart(self):
        class Slots:
            __slots__ = ("user", "__hidden", "unset")

            def __init__(self, user=None, hidden=None):
                self.user, self.__hidden = user, hidden

            def get_token(self):
                pass

        def bound(user):
            return lambda: user

        values = [
            None, True, 1, "1", 1.5, b"1", pathlib.Path("1"), ["1"], ["1", "2"], {"a": "1"}, {"a": "2"}, {"1"},
            Slots("1"), Slots("2"), Slots(hidden="1"), Holding("1"), Holding(Holding("1")), types.SimpleNamespace(a=1),
            types.SimpleNamespace(a=2), bound("1"), bound("2"), functools.partial(print, 1), functools.partial(print, 2),
            Holding("1").get_token, Holding("2").get_token, int, str, logging.WARNING, threading.Lock(),
            azure.identity.ClientSecretCredential("tenant", "one", "secret"),
            azure.identity.ClientSecretCredential("tenant", "two", "secret"),
            [one := ["1"], two := ["2"], one], [one, two, two],
        ]  # fmt: skip
        ids = [identity_of(Holding(value)).client_id() for value in values]
        assert len(set(ids)) == len(values)
        assert ids == [identity_of(Holding(value)).client_id() for value in values]
        itself = Holding(None)
        itself.held = [itself, {"itself": itself}]
        assert identity_of(itself).client_id() not in ids

    def test_nothing_of_an_attribute_is_stored(self, cache, location):
        inner = Fake()
        inner.password = "s3cret-in-an-attribute"
        PersistedCredential(inner, cache=cache).get_token(SCOPE)
        stored = open(location, encoding="utf-8").read()
        assert inner.password not in stored
        assert hashlib.sha256(inner.password.encode()).hexdigest()[:16] not in stored


class Holding:
    """A credential of a program's own, that holds something."""

    def __init__(self, held):
        self.held = held

    def get_token(self, *scopes, **kwargs):
        raise LookupError


def sign_in(home, **users):
    """Makes `azure`, `azd` and `powershell` say that so and so is signed in, or nobody."""
    for tool, user in users.items():
        if tool == "azure":
            path = home / ".azure" / "azureProfile.json"
            subscriptions = [
                {"id": "two", "name": "Two", "tenantId": "tenant", "isDefault": True, "user": {"name": user, "type": "user"}},
                {"id": "1", "name": "One", "tenantId": "tenant", "isDefault": False, "user": {"name": users.get("one", "x")}},
            ]
            document = {"installationId": "x", "subscriptions": subscriptions}
        elif tool == "azd":
            path = home / ".azd" / "auth.json"
            document = {"auth": {"account": {"currentUser": {"homeAccountId": user}}}}
        elif tool == "powershell":
            path = home / ".Azure" / "AzureRmContext.json"
            context = {"Account": {"Id": user, "Type": "User"}, "Tenant": {"Id": "tenant"}}
            document = {"DefaultContextKey": "Default", "Contexts": {"Default": context}}
        else:
            continue
        path.parent.mkdir(exist_ok=True)
        if user is None:
            path.unlink()
        else:
            # As the Azure CLI does, which writes a mark of the order of bytes.
            path.write_text(json.dumps(document), encoding="utf-8-sig")


def record(user):
    return azure.identity.AuthenticationRecord("tenant", "client", "login.microsoftonline.com", f"{user}.tenant", user)


def certificate(tmp_path):
    """A certificate of its own, with its key."""
    from datetime import datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime(2026, 1, 1)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    no_password = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, no_password)
    path = tmp_path / "certificate.pem"
    path.write_bytes(pem + made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return str(path)


class TestWhichTokenIsServed:
    def test_one_that_is_good_is_not_asked_for_again(self, cache):
        inner = Fake(refresh_in=1800)
        info = persisted(inner, cache).get_token_info(SCOPE)
        again = persisted(Fake(), strongroom.PersistedTokenCache(cache._persistence)).get_token_info(SCOPE)
        for name in ("token", "expires_on", "refresh_on", "token_type"):
            assert getattr(info, name) == getattr(again, name)
        assert type(again) is AccessTokenInfo
        token = persisted(inner, cache).get_token(SCOPE)
        assert type(token) is AccessToken and token == (info.token, info.expires_on)
        assert len(inner.asked) == 1

    def test_one_of_other_scopes_is_not_served_even_if_it_has_these_too(self, cache):
        inner = Fake()
        credential = persisted(inner, cache)
        credential.get_token("s1", "s2")
        assert credential.get_token("s2", "S1").token == "token-1"
        assert credential.get_token("s1").token == "token-2"
        assert [scopes for scopes, _ in inner.asked] == [("s1", "s2"), ("s1",)]

    def test_tenants_and_continuous_access_are_kept_apart(self, cache):
        inner = Fake()
        credential = persisted(inner, cache)
        asks = [{}, {"tenant_id": "one"}, {"tenant_id": "two"}, {"enable_cae": True}, {"tenant_id": "one", "enable_cae": True}]
        for _ in range(2):
            tokens = [credential.get_token(SCOPE, **ask).token for ask in asks]
            assert tokens == [f"token-{n}" for n in range(1, 6)]
            tokens = [credential.get_token_info(SCOPE, options=ask).token for ask in asks]
            assert tokens == [f"token-{n}" for n in range(1, 6)]
        assert [options for _, options in inner.asked] == asks

    def test_a_claims_challenge_is_always_passed_on_and_its_token_takes_the_others_place(self, cache):
        inner = Fake()
        credential = persisted(inner, cache)
        credential.get_token(SCOPE)
        assert credential.get_token(SCOPE, claims="{}").token == "token-2"
        assert credential.get_token(SCOPE).token == "token-2"
        assert credential.get_token_info(SCOPE, options={"claims": "{}"}).token == "token-3"
        assert len([1 for _ in cache.search(AT)]) == 1
        inner.error = LookupError("refused")
        with pytest.raises(LookupError):
            # The token in the cache is the one that was challenged.
            credential.get_token(SCOPE, claims="{}")

    def test_what_is_not_understood_is_passed_on_and_not_kept(self, cache):
        inner, old = Fake(), Old()
        pop = {"pop": {"nonce": "x"}}
        for _ in range(2):
            persisted(inner, cache).get_token_info(SCOPE, options=pop)
            persisted(old, cache).get_token(SCOPE, pop=True)
        assert len(inner.asked) == 2 and inner.asked[0][1] == pop
        assert old.asked == [((SCOPE,), {"pop": True})] * 2
        bound = Fake(token_type="pop")
        assert [persisted(bound, cache).get_token_info(SCOPE).token for _ in range(2)] == ["token-1", "token-2"]
        assert list(cache.search(AT)) == []

    def test_one_with_only_the_older_method_is_asked_by_that(self, cache):
        old = Old()
        credential = persisted(old, cache)
        info = credential.get_token_info(SCOPE, options={"tenant_id": "one", "enable_cae": False})
        assert (info.token, info.token_type, info.refresh_on) == ("old-1", "Bearer", None)
        assert old.asked == [((SCOPE,), {"tenant_id": "one"})]
        assert credential.get_token(SCOPE, tenant_id="one").token == "old-1"

    def test_without_scopes_the_credential_says_what_it_thinks_of_that(self, cache):
        inner = azure.identity.ClientSecretCredential("tenant", "client", "secret")
        for ask in (PersistedCredential(inner, cache=cache).get_token, PersistedCredential(inner, cache=cache).get_token_info):
            with pytest.raises(ValueError, match="at least one scope"):
                ask()

    def test_one_that_is_due_is_served_and_renewed_behind(self, cache):
        inner = Fake()
        credential = persisted(inner, cache)
        aged(credential, 2000, refresh_in=0)
        inner.gate.clear()
        # Nobody waits for it, and there is one of it.
        assert [credential.get_token(SCOPE).token for _ in range(3)] == ["aged"] * 3
        inner.gate.set()
        until(lambda: credential.get_token(SCOPE).token == "token-1")
        assert len(inner.asked) == 1

    def test_a_renewal_that_fails_is_logged_and_not_tried_again_at_once(self, cache, caplog):
        inner = Fake()
        inner.error = LookupError("not to be shown")
        credential = persisted(inner, cache)
        aged(credential, 2000, refresh_in=0)
        assert credential.get_token(SCOPE).token == "aged"
        until(lambda: any("could not be renewed" in record.getMessage() for record in caplog.records))
        assert [credential.get_token(SCOPE).token for _ in range(3)] == ["aged"] * 3
        # Waits for what is under way.
        credential.close()
        assert len(inner.asked) == 1
        (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert record.name == "strongroom.azure" and "LookupError" in record.getMessage()
        assert "not to be shown" not in record.getMessage()

    def test_nodes_renew_at_different_times_and_each_at_its_own(self, monkeypatch):
        points = set()
        for node in range(20):
            monkeypatch.setattr("platform.node", lambda node=node: str(node))
            ask = _tokens.Ask("c", "e", "r", ("s",))
            points.add(_tokens._jitter(ask, 0, 43_200, 86_100))
            assert _tokens._jitter(ask, 0, 43_200, 86_100) in points
        assert len(points) > 10 and all(0 <= point < 43_200 // 5 for point in points)

    def test_in_its_last_minutes_the_new_one_is_waited_for(self, cache):
        inner = Fake()
        credential = persisted(inner, cache)
        aged(credential, 3600 - 200)
        assert credential.get_token(SCOPE).token == "token-1"

    def test_in_its_last_minutes_it_is_served_if_the_new_one_is_refused_or_late(self, cache, monkeypatch):
        monkeypatch.setattr(_tokens, "PATIENCE_IN_MARGIN", 0.05)
        for spoil in (lambda inner: setattr(inner, "error", LookupError()), lambda inner: inner.gate.clear()):
            inner = Fake()
            spoil(inner)
            credential = persisted(inner, cache)
            aged(credential, 3600 - 200)
            assert credential.get_token(SCOPE).token == "aged"
            inner.gate.set()
        until(lambda: credential.get_token(SCOPE).token == "token-1")

    def test_one_that_has_expired_is_never_served(self, cache):
        inner = Fake()
        inner.error = LookupError("mine")
        credential = persisted(inner, cache)
        aged(credential, 3601)
        with pytest.raises(LookupError) as raised:
            credential.get_token(SCOPE)
        assert raised.value is inner.error

    def test_one_from_the_future_is_not_trusted(self, cache):
        credential = persisted(Fake(), cache)
        aged(credential, -1000)
        assert credential.get_token(SCOPE).token == "token-1"

    def test_what_a_credential_gives_again_does_not_look_younger(self, cache, location):
        class Remembering(Fake):
            def get_token_info(self, *scopes, options=None):
                super().get_token_info(*scopes, options=options)
                return AccessTokenInfo("aged", int(time.time()) + 200)

        inner = Remembering()
        credential = persisted(inner, cache)
        aged(credential, 3600 - 200)
        before = open(location, encoding="utf-8").read()
        assert credential.get_token(SCOPE).token == "aged" and len(inner.asked) == 1
        assert open(location, encoding="utf-8").read() == before


class TestTogether:
    def test_threads_that_want_the_same_ask_once(self, cache):
        inner = Fake()
        inner.gate.clear()
        credential = persisted(inner, cache)
        tokens = []
        threads = [threading.Thread(target=lambda: tokens.append(credential.get_token(SCOPE).token)) for _ in range(8)]
        for thread in threads:
            thread.start()
        assert inner.begun.wait(60)
        inner.gate.set()
        for thread in threads:
            thread.join()
        assert tokens == ["token-1"] * 8 and len(inner.asked) == 1

    def test_a_slow_scope_delays_no_other(self, cache):
        slow, fast = Fake(), Fake()
        slow.gate.clear()
        credential = persisted(slow, cache)
        thread = threading.Thread(target=credential.get_token, args=(SCOPE,))
        thread.start()
        assert slow.begun.wait(60)
        assert persisted(fast, cache).get_token("other").token == "token-1"
        slow.gate.set()
        thread.join()

    def test_a_failure_is_shared_by_those_who_waited_and_the_next_one_tries_again(self, cache):
        inner = Fake()
        inner.error = LookupError("mine")
        inner.gate.clear()
        credential = persisted(inner, cache)
        failures = []

        def ask():
            with pytest.raises(LookupError) as raised:
                credential.get_token(SCOPE)
            failures.append(raised.value)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: len(inner.asked) == 1 and len(credential._flights) == 1)
        inner.gate.set()
        for thread in threads:
            thread.join()
        assert set(failures) == {inner.error}
        inner.error = None
        assert credential.get_token(SCOPE).token.startswith("token-")

    def test_ctrl_c_of_the_one_who_asks_is_not_that_of_those_who_wait(self, cache):
        class Interrupted(Fake):
            def get_token_info(self, *scopes, options=None):
                info = super().get_token_info(*scopes, options=options)
                if info.token == "token-1":
                    raise KeyboardInterrupt
                return info

        inner = Interrupted()
        inner.gate.clear()
        credential = persisted(inner, cache)
        outcomes = []

        def ask():
            try:
                outcomes.append(credential.get_token(SCOPE).token)
            except KeyboardInterrupt:
                outcomes.append("interrupted")

        threads = [threading.Thread(target=ask) for _ in range(2)]
        threads[0].start()
        assert inner.begun.wait(60)
        threads[1].start()
        inner.gate.set()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["interrupted", "token-2"]

    def test_who_has_waited_long_enough_asks_for_himself(self, cache, monkeypatch):
        monkeypatch.setattr(_tokens, "PATIENCE", 0.05)
        monkeypatch.setattr(_tokens, "PATIENCE_OF_HOST", 0.05)
        inner = Fake()
        inner.gate.clear()
        credential = persisted(inner, cache)
        thread = threading.Thread(target=credential.get_token, args=(SCOPE,))
        thread.start()
        assert inner.begun.wait(60)
        second = threading.Thread(target=credential.get_token, args=(SCOPE,))
        second.start()
        until(lambda: len(inner.asked) == 2)
        inner.gate.set()
        thread.join()
        second.join()

    HERD = """
import sys, time
from azure.core.credentials import AccessToken
from strongroom.azure import PersistedCredential

class Inner:
    def get_token(self, *scopes, **kwargs):
        with open(sys.argv[2], "a", encoding="utf-8") as file:
            file.write("asked\\n")
        # So that the others come meanwhile.
        time.sleep(0.5)
        return AccessToken("the token", int(time.time()) + 3600)

print("ready", flush=True)
sys.stdin.readline()
print(PersistedCredential(Inner(), cache=sys.argv[1], identity="the same").get_token("scope").token)
"""

    def test_processes_of_a_host_that_want_the_same_ask_once(self, location, tmp_path):
        asked = tmp_path / "asked"
        command = [sys.executable, "-c", self.HERD, location, str(asked)]
        pipe = subprocess.PIPE
        running = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(6)]
        for process in running:
            assert process.stdout.readline() == "ready\n"
        for process in running:
            process.stdin.write("go\n")
            process.stdin.flush()
        assert [process.communicate(timeout=60)[0] for process in running] == ["the token\n"] * 6
        assert asked.read_text() == "asked\n"

    @needs_fork
    def test_a_child_does_not_wait_for_a_thread_that_it_does_not_have(self, cache, monkeypatch):
        monkeypatch.setattr(_tokens, "PATIENCE_OF_HOST", 0.05)
        inner = Fake()
        inner.gate.clear()
        credential = persisted(inner, cache)
        aged(credential, 2000, refresh_in=0)
        threads = [threading.Thread(target=credential.get_token, args=("other",))]
        threads[0].start()
        assert inner.begun.wait(60)
        assert credential.get_token(SCOPE).token == "aged"
        until(lambda: len(inner.asked) == 2)

        def use():
            inner.gate = threading.Event()
            inner.gate.set()
            assert credential.get_token(SCOPE).token == "aged"
            # The parent's thread asks for this one.
            assert credential.get_token("other").token.startswith("token-")
            credential.close()

        try:
            with credential._mutex:
                assert in_child(use)
        finally:
            inner.gate.set()
            threads[0].join()
        credential.close()

    def test_the_end_of_a_process_waits_a_moment_for_renewals_and_no_longer(self, location, python):
        program = """
import sys, threading, time
from azure.core.credentials import AccessTokenInfo
from strongroom.azure import PersistedCredential, _tokens

_tokens.PATIENCE_AT_END = float(sys.argv[3])

class Inner:
    def get_token_info(self, *scopes, options=None):
        if sys.argv[2] == "renew":
            renewing.set()
            time.sleep(float(sys.argv[4]))
        now = int(time.time())
        return AccessTokenInfo(f"token of {sys.argv[2]}", now + 3600, refresh_on=now)

renewing = threading.Event()
credential = PersistedCredential(Inner(), cache=sys.argv[1], identity="the same")
print(credential.get_token("scope").token)
assert sys.argv[2] != "renew" or renewing.wait(60)
"""
        run = lambda *arguments: python(program, location, *arguments)  # noqa: E731
        run("begin", "0", "0")
        # It would go on for longer than a program is waited for here.
        assert run("renew", "0.1", "600").stdout == "token of begin\n"
        assert run("renew", "60", "0.5").stdout == "token of begin\n"
        assert run("renew", "0", "0").stdout == "token of renew\n"

    @pytest.mark.parametrize("how", ["it computes", "it waits for a lock", "it has just come back"])
    def test_the_end_of_a_process_is_not_held_up_by_what_a_renewal_is_in(self, how, location, python):
        program = """
import sys, threading, time
from azure.core.credentials import AccessTokenInfo
from strongroom.azure import PersistedCredential, _tokens

_tokens.PATIENCE_AT_END = 0.3

class Inner:
    def get_token_info(self, *scopes, options=None):
        begun.set()
        ended = time.monotonic() + {"it computes": 600, "it waits for a lock": 0, "it has just come back": 0.3}[sys.argv[2]]
        while time.monotonic() < ended:
            pass
        now = int(time.time())
        return AccessTokenInfo("new", now + 3600)

begun = threading.Event()
credential = PersistedCredential(Inner(), cache=sys.argv[1], identity="somebody")
print(credential.get_token(sys.argv[3]).token)
assert begun.wait(60)
"""
        credential = persisted(Fake(), location)
        aged(credential, 2000, refresh_in=0)
        lock = strongroom.CrossPlatLock(location + ".lockfile") if how == "it waits for a lock" else None
        if lock:
            lock.__enter__()
        try:
            done = python(program, location, how, SCOPE)
        finally:
            if lock:
                lock.__exit__(None, None, None)
        assert (done.stdout, done.stderr) == ("aged\n", "")


class TestTrouble:
    def test_a_damaged_cache_is_moved_aside(self, cache, location, caplog):
        with open(location, "w", encoding="utf-8") as file:
            file.write('{"AccessToken": {')
        credential = persisted(Fake(), cache)
        assert credential.get_token(SCOPE).token == credential.get_token(SCOPE).token == "token-1"
        assert any("damaged" in record.getMessage() for record in caplog.records)

    def test_a_cache_that_is_something_else_is_an_error(self, cache, location):
        with open(location, "w", encoding="utf-8") as file:
            file.write("STRONGROOM or something else")
        inner = Fake()
        with pytest.raises(ValueError):
            persisted(inner, cache).get_token(SCOPE)
        assert inner.asked == []

    def test_a_token_that_cannot_be_stored_is_delivered(self, location, caplog):
        class Full(strongroom.FilePersistence):
            def save(self, content):
                raise OSError(28, "no space")

        credential = persisted(Fake(), Full(location))
        assert [credential.get_token(SCOPE).token for _ in range(2)] == ["token-1", "token-2"]
        messages = [record.getMessage() for record in caplog.records if record.name == "strongroom.azure"]
        assert any("could not be stored" in message for message in messages)
        assert not any("token-1" in message for message in messages)

    def test_what_fits_nothing_is_refused_at_once(self, cache, location):
        with pytest.raises(TypeError, match="strongroom.azure.aio"):
            PersistedCredential(AsyncFake(), cache=cache, identity="x")
        with pytest.raises(TypeError, match="path"):
            PersistedCredential(Fake(), cache={}, identity="x")
        late = Fake()
        late.get_token_info = lambda *scopes, options=None: AsyncFake().get_token_info(*scopes)
        with pytest.raises(TypeError, match="strongroom.azure.aio"):
            persisted(late, cache).get_token(SCOPE)

    def test_a_path_and_a_persistence_are_caches_too(self, location, tmp_path):
        for cache in (tmp_path / "one.bin", str(tmp_path / "two.bin"), strongroom.FilePersistence(location)):
            inner = Fake()
            for _ in range(2):
                persisted(inner, cache).get_token(SCOPE)
            assert len(inner.asked) == 1

    def test_secrets_are_in_no_repr_and_nothing_is_pickled(self, cache):
        for kind, inner in ((PersistedCredential, Fake()), (strongroom.azure.aio.PersistedCredential, AsyncFake())):
            credential = persisted(inner, cache, kind)
            assert repr(credential) == f"PersistedCredential({type(inner).__name__}, cache={cache!r})"
            for copier in (pickle.dumps, copy.copy, copy.deepcopy):
                with pytest.raises(TypeError, match="cannot be pickled or copied"):
                    copier(credential)
        persisted(Fake(), cache).get_token(SCOPE)
        found = credential._tokens.look(credential._tokens.ask((SCOPE,), {}))
        assert found.info.token == "token-1" and "token-1" not in repr(found)

    def test_closing_closes_the_inner_one(self, cache):
        inner = Fake()
        with persisted(inner, cache) as credential:
            assert isinstance(credential, PersistedCredential) and (inner.entered, inner.closed) == (1, 0)
        assert inner.closed == 1
        credential.close()
        assert inner.closed == 2
        with persisted(Old(), cache) as credential:
            credential.close()

    def test_it_is_what_azure_core_calls_a_credential(self, cache):
        assert isinstance(persisted(Fake(), cache), TokenCredential)
        assert isinstance(persisted(Fake(), cache), SupportsTokenInfo)
        credential = persisted(AsyncFake(), cache, strongroom.azure.aio.PersistedCredential)
        assert isinstance(credential, AsyncTokenCredential) and isinstance(credential, AsyncSupportsTokenInfo)
        chain = azure.identity.ChainedTokenCredential(persisted(Fake(), cache))
        assert chain.get_token(SCOPE).token == "token-1"

    def test_without_azure_core_it_says_what_is_missing(self, python):
        program = """
import sys
sys.modules["azure.core.credentials"] = None
import strongroom
try:
    import strongroom.azure
except ImportError as error:
    print(error)
"""
        assert "pip install azure-core" in python(program).stdout
        program = "import sys, strongroom; print([name for name in sys.modules if name.startswith('azure')])"
        assert python(program).stdout == "[]\n"


class TestAsync:
    def run(self, cache, use, **kwargs):
        inner = AsyncFake(**kwargs)

        async def main():
            async with persisted(inner, cache, strongroom.azure.aio.PersistedCredential) as credential:
                await use(credential, inner)

        asyncio.run(main())
        assert inner.closed == 1
        return inner

    async def until(self, condition):
        deadline = time.monotonic() + 60
        while not await condition():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)

    def test_the_rules_are_the_same(self, cache):
        async def use(credential, inner):
            assert (await credential.get_token(SCOPE)).token == "token-1"
            info = await credential.get_token_info(SCOPE)
            assert (type(info), info.token) == (AccessTokenInfo, "token-1")
            assert (await credential.get_token(SCOPE, tenant_id="one")).token == "token-2"
            assert (await credential.get_token(SCOPE, enable_cae=True)).token == "token-3"
            assert (await credential.get_token(SCOPE, claims="{}")).token == "token-4"
            assert (await credential.get_token(SCOPE)).token == "token-4"
            assert (await credential.get_token_info(SCOPE, options={"pop": {"nonce": "x"}})).token == "token-5"

        self.run(cache, use)
        # What one form has stored the other one finds.
        assert persisted(Fake(), cache).get_token(SCOPE).token == "token-4"

    def test_callers_that_want_the_same_ask_once_and_one_may_go_away(self, cache):
        async def use(credential, inner):
            inner.gate = asyncio.Event()
            callers = [asyncio.ensure_future(credential.get_token(SCOPE)) for _ in range(8)]
            while not inner.fake.asked:
                await asyncio.sleep(0.001)
            callers[0].cancel()
            inner.gate.set()
            tokens = await asyncio.gather(*callers[1:])
            assert {token.token for token in tokens} == {"token-1"} and len(inner.fake.asked) == 1
            with pytest.raises(asyncio.CancelledError):
                await callers[0]

        self.run(cache, use)

    def test_who_has_waited_long_enough_asks_for_himself(self, cache, monkeypatch):
        monkeypatch.setattr(_tokens, "PATIENCE", 0.05)
        monkeypatch.setattr(_tokens, "PATIENCE_OF_HOST", 0.05)

        async def use(credential, inner):
            inner.gate = asyncio.Event()
            callers = [asyncio.ensure_future(credential.get_token(SCOPE)) for _ in range(2)]
            while len(inner.fake.asked) < 2:
                await asyncio.sleep(0.001)
            inner.gate.set()
            assert {token.token for token in await asyncio.gather(*callers)} == {"token-1", "token-2"}

        self.run(cache, use)

    def test_one_that_is_due_is_served_and_renewed_behind(self, cache):
        async def use(credential, inner):
            inner.gate = asyncio.Event()
            aged(credential, 2000, refresh_in=0)
            assert [(await credential.get_token(SCOPE)).token for _ in range(3)] == ["aged"] * 3
            inner.gate.set()

            async def is_renewed():
                return (await credential.get_token(SCOPE)).token == "token-1"

            await self.until(is_renewed)
            assert len(inner.fake.asked) == 1

        self.run(cache, use)

    def test_in_its_last_minutes_the_new_one_is_waited_for_if_it_is_not_late(self, cache, monkeypatch):
        async def use(credential, inner):
            aged(credential, 3600 - 200)
            assert (await credential.get_token(SCOPE)).token == "token-1"
            monkeypatch.setattr(_tokens, "PATIENCE_IN_MARGIN", 0.05)
            inner.gate = asyncio.Event()
            aged(credential, 3600 - 200)
            credential._tokens._not_before.clear()
            assert (await credential.get_token(SCOPE)).token == "aged"
            inner.gate.set()

        self.run(cache, use)

    def test_a_failure_is_the_callers_or_a_warning_while_the_token_lives(self, cache, caplog):
        async def use(credential, inner):
            inner.fake.error = LookupError("not to be shown")
            for _ in range(2):
                with pytest.raises(LookupError):
                    await credential.get_token(SCOPE)
            aged(credential, 3600 - 200)
            assert (await credential.get_token(SCOPE)).token == "aged"

            # One that nobody waits for any more is nobody's.
            inner.gate = asyncio.Event()
            caller = asyncio.ensure_future(credential.get_token("other"))
            while len(inner.fake.asked) < 4:
                await asyncio.sleep(0.001)
            caller.cancel()
            inner.gate.set()
            while credential._flights_here():
                await asyncio.sleep(0.001)
            gc.collect()

        self.run(cache, use)
        (record,) = [record for record in caplog.records if record.name == "strongroom.azure"]
        assert "LookupError" in record.getMessage() and "not to be shown" not in record.getMessage()
        assert not [record for record in caplog.records if record.name == "asyncio" and record.levelno >= logging.ERROR]

    def test_closing_gives_up_a_renewal_that_takes_too_long(self, cache, monkeypatch):
        monkeypatch.setattr(_tokens, "PATIENCE_AT_END", 0.05)

        async def use(credential, inner):
            inner.gate = asyncio.Event()
            aged(credential, 2000, refresh_in=0)
            assert (await credential.get_token(SCOPE)).token == "aged"
            (renewal,) = credential._renewals
            await credential.close()
            await asyncio.wait([renewal], timeout=60)
            assert renewal.cancelled()
            inner.closed = 0

        self.run(cache, use)

    def test_it_may_be_used_in_one_loop_after_another(self, cache):
        inner = AsyncFake()
        credential = persisted(inner, cache, strongroom.azure.aio.PersistedCredential)
        tokens = [asyncio.run(credential.get_token(scope)).token for scope in ("one", "two", "one")]
        assert tokens == ["token-1", "token-2", "token-1"]

    def test_one_that_is_not_asynchronous_is_refused(self, cache):
        for inner in (Fake(), Old()):
            with pytest.raises(TypeError, match="strongroom.azure.PersistedCredential"):
                persisted(inner, cache, strongroom.azure.aio.PersistedCredential)

    def test_one_whose_function_gives_a_coroutine_is_asynchronous(self, cache):
        fake = AsyncFake()
        inner = types.SimpleNamespace(get_token_info=functools.partial(fake.get_token_info))
        credential = persisted(inner, cache, strongroom.azure.aio.PersistedCredential)
        assert asyncio.run(credential.get_token(SCOPE)).token == "token-1"


@pytest.mark.parametrize("kind", [PersistedCredential, strongroom.azure.aio.PersistedCredential])
class TestMistakes:
    def test_what_is_no_credential_is_refused(self, cache, kind):
        for inner in (object(), None, "secret"):
            with pytest.raises(TypeError, match="without get_token: PersistedCredential takes a credential"):
                persisted(inner, cache, kind)
        for inner in (Fake, AsyncFake):
            with pytest.raises(TypeError, match=f"the class {inner.__name__}, not an object"):
                persisted(inner, cache, kind)

    def test_a_list_of_scopes_is_refused(self, cache, kind):
        is_async = kind is not PersistedCredential
        credential = persisted(AsyncFake() if is_async else Fake(), cache, kind)
        for ask in (credential.get_token, credential.get_token_info):
            with pytest.raises(TypeError, match="scopes are texts: get_token"):
                asyncio.run(ask([SCOPE])) if is_async else ask([SCOPE])
