"""A confidential client: an application that signs in as itself. Neither ``msal`` nor ``requests`` nor ``cryptography`` is needed."""

from __future__ import annotations

import _weakref
import os

from . import _strongroom
from ._base import NotPicklable
from ._native_cache import native_cache
from .persistence import build_encrypted_persistence

TYPE_CHECKING = False  # Importing `typing` takes longer than all the rest of this package.
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Dict, List, Literal, Mapping, Optional, Sequence, Set, Tuple, Type, Union

    from ._strongroom import Application as _Native
else:
    # The native half has two classes, and the two forms have one each.
    _Native = object

__all__ = ["ConfidentialClientApplication"]

_INSTEAD = "use msal, with strongroom.PersistedTokenCache as its token_cache"


class _Base(NotPicklable, _Native):
    """What both forms of the application have in common: how they are set up."""

    def __init__(
        self,
        client_id: str,
        client_credential: Any = None,
        authority: Any = None,
        validate_authority: bool = True,
        token_cache: Any = None,
        http_client: Any = None,
        verify: Union[bool, str, "os.PathLike[str]"] = True,
        proxies: Optional[Mapping[str, str]] = None,
        timeout: Union[None, float, Tuple[float, float]] = None,
        client_claims: Optional[Dict[str, Any]] = None,
        app_name: Optional[str] = None,
        app_version: Optional[str] = None,
        client_capabilities: Optional[Sequence[str]] = None,
        azure_region: Union[None, bool, str] = None,
        exclude_scopes: Optional[List[str]] = None,
        http_cache: Any = None,
        instance_discovery: Optional[bool] = None,
        allow_broker: Optional[bool] = None,
        enable_pii_log: Optional[bool] = None,
        oidc_authority: Optional[str] = None,
        *,
        known_authorities: Sequence[str] = (),
        renewal: Literal["background", "inline", "off"] = "background",
        extended_lifetime: Optional[float] = None,
    ) -> None:
        del http_cache  # What is refused is remembered beside the cache, for all processes.
        del enable_pii_log  # Nothing of a person is logged, whatever is asked for.
        _check(client_id, exclude_scopes, allow_broker)
        url = _authority(authority, oidc_authority)
        self.client_id = client_id
        try:
            self._set_up(
                client_id=client_id,
                authority=url,
                credential=_credential(client_credential),
                cache=_cache(token_cache),
                transport=_transport(http_client, verify, proxies),
                timeout=_seconds(timeout),
                app_name=app_name,
                app_version=app_version,
                client_capabilities=_texts("client_capabilities", client_capabilities),
                client_claims=_json(client_claims),
                azure_region=_region(azure_region),
                instance_discovery=_instance_discovery(instance_discovery) and bool(validate_authority),
                known_authorities=_texts("known_authorities", known_authorities),
                renewal=renewal,
                extended_lifetime=_lifetime(extended_lifetime),
            )
        except ValueError as error:
            if getattr(error, "code", None) == "unsupported_authority":
                raise ValueError(f"{error}; or {_INSTEAD}") from None
            raise
        self._authority = url
        #: As it was handed in.
        self.token_cache = token_cache
        _end_with_python(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.client_id!r}, authority={self._authority!r})"

    def _silent(
        self,
        scopes: List[str],
        account: Optional[Mapping[str, Any]],
        authority: Optional[str],
        force_refresh: Optional[bool],
        claims_challenge: Optional[str],
        forwarded_client_claims: Optional[str],
        auth_scheme: object,
        kwargs: Dict[str, Any],
    ) -> Any:
        """What the cache has: a dictionary, ``None``, or what it takes to know."""
        if auth_scheme is not None:
            raise ValueError(f"auth_scheme is not supported by a confidential client; for a signed request {_INSTEAD}")
        if kwargs:
            if kwargs.get("data"):
                raise ValueError(f"further parameters of the token request (data) are not supported: {_INSTEAD}")
            if kwargs.keys() - {"data"}:
                raise TypeError(f"acquire_token_silent() has no argument {min(kwargs.keys() - {'data'})!r}")
        if authority:
            import warnings

            warnings.warn("authority makes no difference: it is the application's", stacklevel=3)
        if forwarded_client_claims:
            # What they set apart is found by acquire_token_for_client(); no user's token has been stored with them.
            return None
        if force_refresh or claims_challenge:
            # No token of the cache will do, and there is nothing to get another one with.
            return None
        if not account:
            return self._silent_for_client(scopes)
        user = home_account_id(account)
        # An application's own tokens are kept under none: they are no user's.
        return self._silent_for_user(scopes, user) if user else None


class ConfidentialClientApplication(_Base, _strongroom.BlockingApplication):
    """An application that signs in as itself: a daemon, a service, a job. In place of ``msal.ConfidentialClientApplication``.

    It has the arguments of MSAL Python and returns its dictionaries::

        import strongroom

        app = strongroom.ConfidentialClientApplication(
            "6731de76-14a6-49ae-97bc-6eba6914391e",
            client_credential="the secret's value",
            authority="https://login.microsoftonline.com/contoso.onmicrosoft.com",
            token_cache=strongroom.build_encrypted_persistence("token_cache.bin"),
        )
        result = app.acquire_token_for_client(["https://graph.microsoft.com/.default"])
        if "access_token" in result:
            print(result["token_source"])
        else:
            print(result["error"], result.get("error_description"))

    One object may be used by any number of threads, and in a process that was forked. The constructor uses no network, nor
    does a token from the cache.

    It gets the application's own tokens, and what other programs have stored of users. It does not sign users in: for
    authorization codes, on-behalf-of, refresh tokens and user names use ``msal``, with
    :class:`~strongroom.PersistedTokenCache`.

    :param client_id: the application's id.
    :param client_credential: its secret: the value, not the id. Or a dictionary: with ``private_key`` (PEM) and
        ``public_certificate`` (PEM) or ``thumbprint``, and ``passphrase`` if there is one; with ``private_key_pfx_path``,
        ``passphrase``, and ``public_certificate: True`` if the certificates are to be sent; or with ``client_assertion``,
        a function that returns one, which may take a dictionary that says what it is for.
    :param authority: ``https://HOST/TENANT``, with the tenant's id or a verified domain.
    :param validate_authority: ``False`` is the same as ``instance_discovery=False``.
    :param token_cache: where tokens are kept. A persistence of this package, a :class:`~strongroom.PersistedTokenCache`, a
        path (:func:`~strongroom.build_encrypted_persistence` is asked for it), or an ``msal.SerializableTokenCache``. By
        default they end with this object.
    :param http_client: an object with ``post`` and ``get`` as those of a ``requests.Session``, for all requests. What it
        raises comes out as it is. Redirects are not followed: it is called with ``allow_redirects=False`` and ``timeout``,
        if its methods have them or take any. By default this package's own HTTP.
    :param verify: the path of a PEM file with the certificates that are trusted, and no others; by default that which
        ``REQUESTS_CA_BUNDLE`` or ``CURL_CA_BUNDLE`` names, else the system's. It cannot be ``False``.
    :param proxies: ``{"https": URL}``, of a proxy that speaks HTTP or HTTPS; by default what ``HTTPS_PROXY`` and ``NO_PROXY`` say.
    :param timeout: seconds that one call may spend on the network in all, or a tuple of those for connecting and reading;
        30 by default.
    :param client_claims: claims that are signed into the assertion of a private key, beside those that it always has.
    :param app_name: shown in the logs of the identity provider, as is ``app_version``.
    :param client_capabilities: ``["CP1"]`` if claims challenges are handled.
    :param azure_region: the region of Azure whose endpoint is asked, ``"westeurope"``; by default what
        ``MSAL_FORCE_REGION`` says. It is not found out.
    :param exclude_scopes: scopes that users are not asked for.
    :param http_cache: not needed: refusals are remembered beside the cache.
    :param instance_discovery: ``False``: the host is trusted, and nobody is asked about it.
    :param known_authorities: hosts that are trusted without asking anybody about them.
    :param renewal: what becomes of a token that is good and past its ``refresh_on``: it is renewed in the ``"background"``,
        ``"inline"`` (for 2 seconds at most), or not (``"off"``).
    :param extended_lifetime: the seconds that an expired token is served for, marked as ``stale``, while the identity
        provider is not to be had and has allowed it; by default none.
    :raises ValueError: something that cannot work, or is not supported. The message says what to use instead.
    """

    def acquire_token_silent(
        self,
        scopes: List[str],
        account: Optional[Mapping[str, Any]],
        authority: Optional[str] = None,
        force_refresh: Optional[bool] = False,
        claims_challenge: Optional[str] = None,
        forwarded_client_claims: Optional[str] = None,
        auth_scheme: object = None,
        **kwargs: Any,
    ) -> Optional[Dict[str, Any]]:
        """A token from the cache, or ``None``: of the user that ``account`` is, else the application's own.

        A user's refresh token is not redeemed.
        """
        answer = self.acquire_token_silent_with_error(
            scopes, account, authority, force_refresh, claims_challenge, forwarded_client_claims, auth_scheme, **kwargs
        )
        return answer if answer and "error" not in answer else None

    def acquire_token_silent_with_error(
        self,
        scopes: List[str],
        account: Optional[Mapping[str, Any]],
        authority: Optional[str] = None,
        force_refresh: Optional[bool] = False,
        claims_challenge: Optional[str] = None,
        forwarded_client_claims: Optional[str] = None,
        auth_scheme: object = None,
        **kwargs: Any,
    ) -> Optional[Dict[str, Any]]:
        """As :meth:`acquire_token_silent`, but with the dictionary of an error, if there is one."""
        answer: Any = self._silent(
            scopes, account, authority, force_refresh, claims_challenge, forwarded_client_claims, auth_scheme, kwargs
        )
        found: Optional[Dict[str, Any]] = answer.wait() if isinstance(answer, _strongroom.Pending) else answer
        return found

    def get_accounts(self, username: Optional[str] = None) -> List[Dict[str, Any]]:
        """The users that are in the cache, as dictionaries; those with this name, in whatever case, if one is given."""
        return accounts(self._accounts().wait(), username)

    def remove_account(self, account: Mapping[str, Any]) -> None:
        """Removes a user with all tokens. What another program writes back is removed again, for 90 days."""
        user = home_account_id(account)
        if user:
            self._remove_account(user, str(account["environment"])).wait()

    def remove_tokens_for_client(self) -> None:
        """Removes all of the application's own tokens, for whatever scopes."""
        self._remove_tokens().wait()

    def close(self) -> None:
        """Waits for renewals in the background, 2 seconds at most. The object can still be used."""
        self._ended_within(PATIENCE)

    def __enter__(self) -> ConfidentialClientApplication:
        return self

    def __exit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc_value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()


#: How long renewals in the background are waited for, in seconds.
PATIENCE = 2.0


def accounts(entries: List[Dict[str, Any]], username: Optional[str]) -> List[Dict[str, Any]]:
    """Accounts as MSAL shows them: each user once, whatever tenants there are entries of."""
    found = {
        entry.get("home_account_id"): {name: entry.get(name) for name in _OF_ACCOUNT}
        for entry in entries
        if entry.get("authority_type") in ("ADFS", "MSSTS")
    }
    if not username:
        return list(found.values())
    return [one for one in found.values() if (one["username"] or "").lower() == username.lower()]


def home_account_id(account: Any) -> str:
    """Which user an account is; empty where it does not say."""
    if not hasattr(account, "keys"):
        raise TypeError(f"account is one of get_accounts(), a dictionary, and no {type(account).__name__}")
    return str(account.get("home_account_id") or "")


_OF_ACCOUNT = (
    "home_account_id",
    "environment",
    "username",
    "account_source",
    "authority_type",
    "local_account_id",
    "realm",
)


# What Python calls it where it complains of an argument.
_Base.__init__.__qualname__ = "ConfidentialClientApplication.__init__"


def _check(client_id: Any, exclude_scopes: Any, allow_broker: Any) -> None:
    if not isinstance(client_id, str):
        raise TypeError(f"client_id is a text, the application's id, and no {type(client_id).__name__}")
    if exclude_scopes and not isinstance(exclude_scopes, list):
        raise ValueError(f"Invalid exclude_scopes={exclude_scopes!r}. It need to be a list of strings.")
    if "openid" in (exclude_scopes or ()):
        raise ValueError(f'Invalid exclude_scopes={exclude_scopes!r}. You can not opt out "openid" scope')
    if allow_broker:
        raise ValueError("allow_broker=True is only supported in PublicClientApplication")


def _authority(authority: Any, oidc_authority: Optional[str]) -> str:
    if authority and oidc_authority:
        raise ValueError("You can not provide both authority and oidc_authority")
    if oidc_authority:
        raise ValueError(f"oidc_authority is not supported: {_INSTEAD}")
    # An AuthorityBuilder of MSAL says by itself what it is as a text.
    return str(authority) if authority else "https://login.microsoftonline.com/common/"


def _instance_discovery(instance_discovery: Any) -> bool:
    if isinstance(instance_discovery, str):
        raise ValueError(f"instance_discovery cannot be a URL: it is True or False; or {_INSTEAD}")
    return instance_discovery is None or bool(instance_discovery)


def _region(azure_region: Any) -> Optional[str]:
    if azure_region is None:
        azure_region = os.environ.get("MSAL_FORCE_REGION") or None
    if azure_region is True:
        raise ValueError(f"azure_region=True, which finds the region out, is not supported: name it; or {_INSTEAD}")
    return str(azure_region) if azure_region else None


def _json(claims: Optional[Dict[str, Any]]) -> Optional[str]:
    if not claims:
        return None
    import json

    return json.dumps(claims)


def _credential(credential: Any) -> _strongroom.Credential:
    """The native form of what MSAL takes."""
    if not credential:
        raise ValueError(
            "a confidential client needs a client_credential: the value of its secret, or a dictionary with a private_key, "
            "a private_key_pfx_path or a client_assertion"
        )
    if isinstance(credential, str):
        return _strongroom.Credential.secret(_encodable("client_credential", credential))
    form: Any = credential
    if not isinstance(credential, dict):
        raise ValueError(f"client_credential is a text or a dictionary, and no {type(form).__name__}")
    assertion = form.get("client_assertion")
    if assertion:
        return _assertion(assertion)
    passphrase = _text(form, "passphrase")
    certificate = form.get("public_certificate")
    certificates = _encodable("public_certificate", certificate) if isinstance(certificate, str) and certificate else None
    if form.get("private_key_pfx_path"):
        path = _path(form["private_key_pfx_path"])
        return _strongroom.Credential.pfx(path, passphrase, certificate is True, certificates)
    private_key, thumbprint = _text(form, "private_key"), _text(form, "thumbprint")
    if not private_key:
        raise ValueError(
            "client_credential has none of client_assertion, private_key_pfx_path and private_key; it needs to follow "
            "the format of https://msal-python.readthedocs.io/en/latest/#msal.ClientApplication.params.client_credential"
        )
    if not thumbprint and not certificates:
        raise ValueError(
            "You must provide either 'thumbprint' or 'public_certificate' from which the thumbprint can be calculated."
        )
    return _strongroom.Credential.pem(private_key, passphrase, thumbprint, certificates)


def _assertion(assertion: Any) -> _strongroom.Credential:
    function: Any = assertion
    if not callable(assertion):
        import warnings

        warnings.warn(
            "a client_assertion that is a text will expire: pass a function that returns a new one each time",
            DeprecationWarning,
            stacklevel=4,
        )
        return _strongroom.Credential.assertion(_encodable("client_assertion", function))

    def provide(context: Dict[str, str]) -> Union[str, bytes]:
        provided: Union[str, bytes] = function(context) if _takes_an_argument(function) else function()
        return provided

    return _strongroom.Credential.provider(provide)


def _takes_an_argument(function: Any) -> bool:
    """Whether it wants to know what the assertion is for, as MSAL decides it."""
    import inspect

    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(one.kind in positional and one.default is inspect.Parameter.empty for one in parameters)


def _text(form: Dict[str, Any], name: str) -> Optional[str]:
    """A field that may be missing. Keys and passphrases may be bytes, too."""
    value = form.get(name)
    if value and not isinstance(value, (str, bytes)):
        raise ValueError(f"{name} of client_credential is a text")
    return _encodable(name, value) if value else None


def _encodable(name: str, value: Union[str, bytes]) -> str:
    """The text, or that it is none: without Python's own error, which has the whole of it."""
    try:
        text = value.decode("utf-8") if isinstance(value, bytes) else value
        text.encode("utf-8")
        return text
    except (UnicodeError, AttributeError):
        pass
    more = ", in PEM: what is given may be DER" if name in ("private_key", "public_certificate") else ""
    raise ValueError(f"{name} is no text{more}")


def _texts(name: str, values: Optional[Sequence[str]]) -> List[str]:
    if isinstance(values, (str, bytes)):
        raise ValueError(f"{name} is a list of texts, and no text: its letters would be taken for them")
    return list(values or ())


def _cache(token_cache: Any) -> Optional[_strongroom.Cache]:
    if not token_cache:
        return None
    native = getattr(token_cache, "_native", None)
    if isinstance(native, _strongroom.Cache):
        return native  # A PersistedTokenCache: what it knows is shared with it.
    if isinstance(token_cache, str) or hasattr(token_cache, "__fspath__"):
        token_cache = build_encrypted_persistence(_path(token_cache))
    if _has(token_cache, "load", "save", "time_last_modified", "get_location"):
        return native_cache(token_cache)[0]
    if _has(token_cache, "serialize", "deserialize"):
        return _strongroom.Cache.serialized(token_cache)
    raise TypeError(
        f"a {type(token_cache).__name__} cannot be read as a whole. token_cache is a persistence of strongroom, a "
        "strongroom.PersistedTokenCache, a path, or an msal.SerializableTokenCache"
    )


def _transport(http_client: Any, verify: Any, proxies: Any) -> Optional[_strongroom.Transport]:
    if http_client:
        if not _has(http_client, "post", "get"):
            raise TypeError("http_client is an object with the methods post and get of a requests.Session")
        from ._http_client import HttpClient

        return _strongroom.Transport.foreign(HttpClient(http_client))
    proxy: Optional[str] = None
    given: Dict[str, Optional[str]] = dict(proxies or {})
    for name, url in given.items():
        if name not in ("http", "https", "all"):
            raise ValueError(f"proxies has {name!r}; it has a URL for \"https\" or \"all\". See NO_PROXY for exceptions")
        if name == "https" or name == "all" and proxy is None:
            proxy = url
    file = _trusted(verify)
    if file is proxy is None:
        return None
    return _strongroom.Transport.http(file, proxy and _encodable("proxies", proxy))


def _trusted(verify: Any) -> Optional[str]:
    """The file of certificates that are trusted."""
    if verify is None or verify is True:
        # As requests has it.
        for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            if os.environ.get(variable):
                return _bundle(variable, os.environ[variable])
        return None
    if not verify:
        raise ValueError(
            "verify=False is not supported: a secret would be sent to whoever answers. For a private certificate "
            "authority, verify is the path of its certificate"
        )
    return _bundle("verify", _path(verify))


def _bundle(name: str, path: str) -> str:
    if os.path.isdir(path):
        raise ValueError(f"{name} is a folder: {path!r}. It is the path of one file with certificates, in PEM")
    # That it is none is said here, not by the first request.
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise OSError(error.errno, f"{name}: {error.strerror}", path) from None
    if b"-----BEGIN CERTIFICATE-----" not in content:
        raise ValueError(f"{name}: there is no certificate, in PEM, in {path!r}")
    return path


def _lifetime(seconds: Optional[float]) -> Optional[float]:
    if seconds is not None and not seconds >= 0:
        raise ValueError(f"extended_lifetime is a number of seconds: {seconds!r}")
    return seconds


def _seconds(timeout: Union[None, float, Tuple[float, float]]) -> Optional[float]:
    if timeout is None:
        return None
    seconds = sum(timeout) if isinstance(timeout, tuple) else float(timeout)
    if not seconds > 0:
        raise ValueError(f"timeout is a number of seconds, or a tuple of two: {timeout!r}")
    return seconds


def _path(path: Union[str, "os.PathLike[str]"]) -> str:
    return os.fspath(path)


def _has(thing: Any, *methods: str) -> bool:
    return all(callable(getattr(thing, name, None)) for name in methods)


# What is left to do when Python ends.
_alive: "Set[_weakref.ref[_Base]]" = set()


def _end_with_python(application: _Base) -> None:
    if not _alive and "atexit" not in _registered:
        import atexit

        atexit.register(_at_exit)
        _registered.add("atexit")
    _alive.add(_weakref.ref(application, _alive.discard))


_registered: Set[str] = set()


def _at_exit() -> None:
    import time

    until = time.monotonic() + PATIENCE
    for reference in list(_alive):
        application = reference()
        if application is not None:
            application._ended_within(max(0.0, until - time.monotonic()))
