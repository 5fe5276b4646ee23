"""What is handed to our client, or comes back to it, that is not as it should be."""

from __future__ import annotations

import http.server
import json
import sys
import threading

import pytest
from test_client import AUTHORITY, NoNetwork, signed_in

import strongroom
from strongroom import aio

SCOPES = ["s/.default"]


def client(http_client=None, **options):
    options = {"client_credential": "s3cret", "authority": AUTHORITY, **options}
    return strongroom.ConfidentialClientApplication("client", http_client=http_client or NoNetwork(), **options)


class Saying(NoNetwork):
    """An `http_client` that always says the same."""

    def __init__(self, text, status=200, **more):
        super().__init__()
        self.answer = type("Answer", (), {"status_code": status, "text": text, "headers": {}, **more})

    def post(self, url, **kwargs):
        self.posted.append(kwargs)
        return self.answer


# An http_client of the program's


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """Sends every request to another path, and remembers what was sent."""

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        self.server.seen.append((self.path, self.rfile.read(length)))
        self.send_response(307 if self.path == "/first" else 200)
        self.send_header("Location", "/second")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args):
        pass


def test_a_redirect_is_not_followed_with_the_secret():
    requests = pytest.importorskip("requests")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    server.seen = []
    threading.Thread(target=server.serve_forever, daemon=True).start()

    class Session(requests.Session):
        def post(self, url, **kwargs):
            answer = super().post(f"http://127.0.0.1:{server.server_port}/first", **kwargs)
            answer.url = url
            return answer

    session = Session()
    session.trust_env = False
    with pytest.raises(ValueError):
        client(session).acquire_token_for_client(SCOPES)
    server.shutdown()
    ((path, form),) = server.seen
    assert path == "/first" and b"s3cret" in form


def test_an_http_client_is_told_not_to_follow_redirects_and_when_to_give_up():
    def answer(**kwargs):
        seen.append(kwargs)
        return NoNetwork.Answer({"access_token": "new", "expires_in": 3600})

    class AnyName(NoNetwork):
        def post(self, url, **kwargs):
            return answer(**kwargs)

    class Names(NoNetwork):
        def post(self, url, params, data, headers, timeout=None, allow_redirects=True):
            return answer(timeout=timeout, allow_redirects=allow_redirects)

    class Neither(NoNetwork):
        def post(self, url, params, data, headers):
            return answer()

    seen = []
    for http_client in (AnyName(), Names(), Neither()):
        client(http_client, timeout=7).acquire_token_for_client(SCOPES)
    assert [one.get("allow_redirects") for one in seen] == [False, False, None]
    assert [0 < one["timeout"] <= 7 for one in seen[:2]] == [True, True]


@pytest.mark.parametrize(
    ("url", "good"),
    [
        (AUTHORITY + "/oauth2/v2.0/token?a=b", True),
        ("https://LOGIN.microsoftonline.com:443/", True),
        (object(), True),
        ("https://login.microsoftonline.com.evil.example/", False),
        ("https://login.microsoftonline.com:444/", False),
        ("http://login.microsoftonline.com/", False),
    ],
)
def test_an_answer_of_another_host_is_none(url, good):
    http_client = Saying('{"access_token":"t","expires_in":3600}', url=url)
    if good:
        assert client(http_client).acquire_token_for_client(SCOPES)["access_token"] == "t"
    else:
        with pytest.raises(ConnectionError, match="redirect"):
            client(http_client).acquire_token_for_client(SCOPES)


def test_an_answer_without_end_is_none():
    text = '{"access_token":"t","expires_in":3600,"more":"%s"}' % ("x" * 1024 * 1024)
    with pytest.raises(ConnectionError, match="longer"):
        client(Saying(text)).acquire_token_for_client(SCOPES)


def test_calls_of_an_http_client_that_never_return_are_not_piled_up():
    go_on, begun = threading.Event(), []

    class Stuck(NoNetwork):
        def post(self, url, **kwargs):
            begun.append(1)
            go_on.wait()
            raise OSError

    app = client(Stuck(), timeout=20)
    results = []

    def ask(scope):
        try:
            app.acquire_token_for_client([scope])
        except Exception as error:
            results.append(error)
            go_on.set()

    threads = [threading.Thread(target=ask, args=(f"s{n}/.default",)) for n in range(70)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    busy = [error for error in results if isinstance(error, RuntimeError)]
    assert len(begun) <= 70 and busy and "have not returned" in str(busy[0])


RAISED = [KeyError("mine"), TimeoutError("late"), OSError("mine"), KeyboardInterrupt(), SystemExit(3)]


@pytest.mark.parametrize("raised", RAISED, ids=lambda one: type(one).__name__)
def test_what_an_http_client_raises_comes_out_as_it_went_in(raised):
    class Broken(NoNetwork):
        def post(self, *args, **kwargs):
            self.posted.append(1)
            raise raised

    http_client = Broken()
    app = client(http_client)
    for _ in range(2):
        with pytest.raises(type(raised)) as caught:
            app.acquire_token_for_client(SCOPES)
        assert caught.value is raised
    assert http_client.posted == [1, 1]


def test_the_errors_of_requests_are_those_that_a_program_catches():
    requests = pytest.importorskip("requests")

    class Broken(NoNetwork):
        def post(self, *args, **kwargs):
            raise requests.exceptions.ReadTimeout("late")

    with pytest.raises(requests.exceptions.Timeout):
        client(Broken()).acquire_token_for_client(SCOPES)


# Trust, and proxies


@pytest.mark.parametrize("url", ["foo://proxy:8080", "htps://proxy", "socks5://proxy:1080"])
@pytest.mark.parametrize("module", [strongroom, aio], ids=["sync", "aio"])
def test_a_proxy_that_would_be_passed_by_is_refused(module, url):
    make = module.ConfidentialClientApplication
    with pytest.raises(ValueError, match="proxy"):
        make("client", "s3cret", AUTHORITY, proxies={"https": url})


def test_a_proxy_may_be_named_without_a_scheme(idp):
    app = idp.client(proxies={"https": "127.0.0.1:9"}, timeout=5)
    with pytest.raises(ConnectionError):
        app.acquire_token_for_client([idp.scope])
    assert idp.requests() == 0


def test_with_verify_nobody_else_is_trusted(idp, tmp_path, monkeypatch):
    x509 = pytest.importorskip("cryptography")
    from test_client import key_and_certificate

    del x509
    _, certificate, _ = key_and_certificate(tmp_path)
    other = tmp_path / "other.pem"
    other.write_text(certificate)
    # The system's roots, so to say.
    monkeypatch.setenv("SSL_CERT_FILE", idp.ca_file)
    assert "access_token" in idp.client(verify=True).acquire_token_for_client([idp.scope])
    with pytest.raises(ConnectionError) as raised:
        idp.client(verify=str(other)).acquire_token_for_client([idp.scope])
    assert raised.value.code == "tls_failed"
    monkeypatch.setenv("CURL_CA_BUNDLE", str(other))
    with pytest.raises(ConnectionError):
        idp.client(verify=True).acquire_token_for_client([idp.scope])


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_bundle_that_is_not_there_is_an_error(tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, str(tmp_path / "nowhere.pem"))
    with pytest.raises(FileNotFoundError, match=name):
        strongroom.ConfidentialClientApplication("client", "s3cret", AUTHORITY)


# The cache of a web session


def test_whether_a_session_has_changed_can_be_seen_at_any_time(location):
    msal = pytest.importorskip("msal")

    class Watched(msal.SerializableTokenCache):
        was = []

        def __setattr__(self, name, value):
            if name == "has_state_changed":
                self.was.append(value)
            super().__setattr__(name, value)

    cache = Watched()
    app = client(token_cache=cache)
    first = app.acquire_token_for_client(SCOPES)
    assert cache.has_state_changed
    assert app.acquire_token_for_client(SCOPES)["token_source"] == "cache"
    assert app.acquire_token_silent(SCOPES, None)["access_token"] == first["access_token"]
    assert False not in Watched.was
    app.remove_tokens_for_client()
    assert False not in Watched.was and app.acquire_token_silent(SCOPES, None) is None


# Secrets in exceptions


SURROGATE = "s3cret\udcff"


@pytest.mark.parametrize(
    "credential",
    [
        {"private_key": b"s3cret\xff\xfe", "thumbprint": "A1B2" * 10},
        {"private_key": SURROGATE, "thumbprint": "A1B2" * 10},
        {"private_key": "x", "passphrase": b"s3cret\xff", "thumbprint": "A1B2" * 10},
        {"private_key": "x", "passphrase": SURROGATE, "thumbprint": "A1B2" * 10},
        {"private_key": "x", "public_certificate": SURROGATE},
        {"private_key_pfx_path": "x", "passphrase": SURROGATE},
        {"client_assertion": SURROGATE},
        {"client_assertion": b"s3cret\xff"},
        {"client_assertion": lambda: SURROGATE},
        {"client_assertion": lambda: b"s3cret\xff"},
        SURROGATE,
    ],
    ids=lambda one: "secret" if isinstance(one, str) else "+".join(one),
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_exception_does_not_have_the_secret_in_it(credential):
    with pytest.raises(ValueError) as raised:
        client(client_credential=credential).acquire_token_for_client(SCOPES)
    error = raised.value
    while error is not None:
        assert not isinstance(error, UnicodeError) and "s3cret" not in repr(error) + repr(vars(error))
        error = error.__context__


def test_an_exception_does_not_have_the_password_of_a_proxy_in_it():
    with pytest.raises(ValueError) as raised:
        strongroom.ConfidentialClientApplication(
            "client", "s3cret", AUTHORITY, proxies={"https": "http://user:hunter2\udcff@proxy"}
        )
    assert "hunter2" not in repr(raised.value) and not isinstance(raised.value, UnicodeError)


# Accounts


@pytest.mark.parametrize("account", [{"home_account_id": ""}, {"home_account_id": None}, {"username": "ann"}])
def test_an_account_without_an_id_does_not_get_the_applications_token(account, location):
    app = client(token_cache=strongroom.FilePersistence(location))
    app.acquire_token_for_client(SCOPES)
    assert app.acquire_token_silent(SCOPES, account) is None
    if "home_account_id" in account:
        app.remove_account({"environment": "login.microsoftonline.com", **account})
    assert app.acquire_token_silent(SCOPES, None)["token_source"] == "cache"


def test_an_account_without_an_id_is_not_listed(location):
    signed_in(location)
    document = json.load(open(location, encoding="utf-8"))
    (account,) = document["Account"].values()
    document["Account"]["-login.microsoftonline.com-utid"] = {**account, "home_account_id": ""}
    strongroom.FilePersistence(location).save(json.dumps(document))
    (found,) = client(token_cache=strongroom.FilePersistence(location)).get_accounts()
    assert found["home_account_id"] == "uid.utid"


# Settings, and answers


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("client_capabilities", "CP1"),
        ("known_authorities", "login.example"),
        ("extended_lifetime", -1),
        ("extended_lifetime", float("nan")),
        ("timeout", float("nan")),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(option, value):
    with pytest.raises(ValueError, match=option):
        client(**{option: value})


def test_a_provider_of_assertions_that_is_late_is_a_timeout():
    go_on = threading.Event()
    app = client(client_credential={"client_assertion": lambda: go_on.wait(60) and "a"}, timeout=0.2)
    with pytest.raises(TimeoutError) as raised:
        app.acquire_token_for_client(SCOPES)
    go_on.set()
    assert raised.value.code == "assertion_timed_out"


def test_providers_of_assertions_that_never_return_are_a_runtime_error():
    go_on = threading.Event()
    app = client(client_credential={"client_assertion": lambda: go_on.wait(60) and "a"}, timeout=0.05)
    try:
        for n in range(65):
            with pytest.raises((TimeoutError, RuntimeError)) as raised:
                app.acquire_token_for_client([f"s{n}/.default"])
        assert isinstance(raised.value, RuntimeError) and raised.value.code == "assertion_provider_busy"
    finally:
        go_on.set()


def test_a_number_without_end_does_not_lose_a_token():
    text = '{"access_token":"t","expires_in":3600,"more":%s}' % ("1" * 5000)
    answer = client(Saying(text)).acquire_token_for_client(SCOPES)
    assert answer["access_token"] == "t" and str(answer["more"]) == "1" * 5000


def test_what_the_package_says_itself_a_provider_cannot_say():
    text = '{"access_token":"t","expires_in":3600,"stale":true,"persisted":false,"token_source":"cache"}'
    answer = client(Saying(text)).acquire_token_for_client(SCOPES)
    assert answer.keys() == {"access_token", "expires_in", "token_source"}
    assert answer["token_source"] == "identity_provider"


@pytest.mark.parametrize("text", ["{}", '{"access_token":"t","expires_in":3600}', '{"error":""}'])
@pytest.mark.parametrize("status", [201, 304, 302, 400, 404, 429])
def test_only_an_answer_of_success_is_one(status, text):
    try:
        answer = client(Saying(text, status)).acquire_token_for_client(SCOPES)
    except ValueError:
        assert status < 400
    else:
        assert ("access_token" in answer) == (status == 201 and "access_token" in text)
        assert "access_token" in answer or answer["error"]
