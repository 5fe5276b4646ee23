"""The tokens of one credential in a cache: which one answers, when it is due, what is kept."""

from __future__ import annotations

import inspect
import logging
import os
import platform
import threading
import time
import weakref
import zlib
from typing import TYPE_CHECKING, Any, Dict, Mapping, NamedTuple, Optional, Tuple, Union, cast

try:
    from azure.core.credentials import (
        AccessToken as AccessToken,
        AccessTokenInfo as AccessTokenInfo,
        TokenRequestOptions as TokenRequestOptions,
    )
except ImportError as _error:
    raise ImportError(
        "strongroom.azure needs azure-core 1.31 or newer: pip install azure-core"
    ) from _error

from .. import _strongroom
from ..persistence import BasePersistence, build_encrypted_persistence
from ..token_cache import PersistedTokenCache
from ._identity import identity_of

if TYPE_CHECKING:
    CacheLike = Union[PersistedTokenCache, BasePersistence, str, "os.PathLike[str]"]

LOG = logging.getLogger("strongroom.azure")

# How many seconds somebody waits for another of this process, who asks for the same token, before
# he asks himself. It may be that somebody has to sign in by hand.
PATIENCE = 60.0
# The same for another process of this host.
PATIENCE_OF_HOST = 10.0
# A token that is about to expire is served if its renewal takes longer than these seconds.
PATIENCE_IN_MARGIN = 1.0
# How many seconds pass between two attempts to renew a token that still lives.
PAUSE = 30.0
# How many renewals a process, or an asynchronous credential, has under way in the background.
MOST_RENEWALS = 8
# How many seconds the end of a credential or a process waits for them.
PATIENCE_AT_END = 2.0

_CAE = ":cae"
_MARGIN = 300
_SKEW = 300


class Ask(NamedTuple):
    """What token is wanted, in the words of the cache."""

    client_id: str
    environment: str
    realm: str
    scopes: Tuple[str, ...]


class Found(NamedTuple):
    """A token that lives."""

    info: AccessTokenInfo
    # Whether it is to be renewed by now, and whether it is about to expire.
    is_due: bool
    is_in_margin: bool

    def __repr__(self) -> str:
        return f"Found(is_due={self.is_due}, is_in_margin={self.is_in_margin})"


class Tokens:
    """The tokens of ``credential`` in ``cache``."""

    def __init__(self, credential: object, cache: CacheLike, identity: Optional[str]) -> None:
        self._identity = identity_of(credential, identity)
        self._cache = _cache_of(cache)
        self._not_before: Dict[Ask, float] = {}
        if not self._identity.is_certain:
            _claim(self._cache, self._identity.digest, credential)
        elif self._identity.client_id() is None:
            LOG.warning(
                "it cannot be told who is signed in for a %s, and while that is so its tokens are "
                "not kept: say whose they are, PersistedCredential(..., identity='...')",
                type(credential).__name__,
            )

    def ask(self, scopes: Tuple[str, ...], options: TokenRequestOptions) -> Optional[Ask]:
        """What these arguments of ``get_token`` ask for. None: whose tokens, cannot be told now."""
        client_id = self._identity.client_id()
        if client_id is None:
            return None
        if options.get("enable_cae"):
            # Its tokens live long and can be revoked, which only some resources understand.
            client_id += _CAE
        realm = (options.get("tenant_id") or self._identity.realm).lower()
        return Ask(
            client_id,
            self._identity.environment,
            realm,
            tuple(sorted(set(" ".join(scopes).split()))),
        )

    def look(self, ask: Ask) -> Optional[Found]:
        """The newest token that answers and lives."""
        now = int(time.time())
        query = {
            "client_id": ask.client_id,
            "environment": ask.environment,
            "realm": ask.realm,
            "home_account_id": None,
        }
        try:
            entries = list(
                self._cache.search("AccessToken", target=list(ask.scopes), query=query, now=now)
            )
        except ValueError as error:
            if getattr(error, "code", None) != "damaged":
                raise
            # Who stores the new token moves it aside.
            LOG.warning("the cache is damaged, so nothing is found in it: %s", error)
            return None
        for entry in entries:
            found = _found(ask, entry, now)
            if found is not None:
                return found
        return None

    def store(self, ask: Ask, info: AccessTokenInfo, began: int) -> None:
        """Keeps a token. That it cannot be kept is no reason not to use it."""
        if info.token_type.lower() != "bearer" or info.expires_on <= began:
            return
        now = self._identity.client_id()
        if now is None or ask.client_id not in (now, now + _CAE):
            # Somebody else has signed in meanwhile. It could be either one's.
            return
        response: Dict[str, Any] = {
            "access_token": info.token,
            "expires_in": info.expires_on - began,
            "token_type": "Bearer",
        }
        if info.refresh_on is not None:
            response["refresh_in"] = max(0, info.refresh_on - began)
        event: Dict[str, Any] = {
            "client_id": ask.client_id,
            "scope": list(ask.scopes),
            "token_endpoint": f"https://{ask.environment}/{ask.realm}/oauth2/v2.0/token",
            "environment": ask.environment,
            "grant_type": "client_credentials",
            "response": response,
            "data": {},
        }
        try:
            found = self.look(ask)
            # A credential has a memory too. What it gives again would look younger than it is.
            if found is None or found.info.token != info.token:
                self._cache.add(event, now=began)
        except Exception as error:
            LOG.warning("the token could not be stored: %s", error)

    def lead(self, ask: Ask, patience: float) -> _strongroom.Lead:
        """Takes the lead among the processes of this host, or waits for whoever has it."""
        native = self._cache._native  # pyright: ignore[reportPrivateUsage]
        return native.lead(ask.environment, ask.client_id, ask.realm, list(ask.scopes), patience)

    def may_renew(self, ask: Ask) -> bool:
        """Whether it is time for another attempt; who is told so makes it."""
        now = time.monotonic()
        if now < self._not_before.get(ask, 0.0):
            return False
        if len(self._not_before) >= 1024:
            self._not_before.clear()
        self._not_before[ask] = now + PAUSE
        return True

    def __repr__(self) -> str:
        return repr(self._cache)


def check_credential(credential: object, is_async: bool) -> None:
    """Sees to it at once that a credential is one, and of the form that is asked here."""
    found = [getattr(credential, name, None) for name in ("get_token", "get_token_info")]
    methods = [method for method in found if callable(method)]
    if isinstance(credential, type) or not methods:
        name = credential.__name__ if isinstance(credential, type) else type(credential).__name__
        what = f"the class {name}, not an object of it" if methods else f"a {name} without get_token"
        raise TypeError(
            f"this is {what}: PersistedCredential takes a credential, such as "
            "azure.identity.DefaultAzureCredential()"
        )
    if any(inspect.iscoroutinefunction(method) for method in methods):
        if not is_async:
            raise TypeError(
                "the credential is asynchronous: use strongroom.azure.aio.PersistedCredential"
            )
    elif is_async and not hasattr(credential, "__aenter__") and all(map(_is_plain, methods)):
        raise TypeError(
            "the credential is not asynchronous: use strongroom.azure.PersistedCredential"
        )


def check_scopes(scopes: Tuple[object, ...]) -> None:
    """Scopes are arguments of their own, which is often taken for a list."""
    for scope in scopes:
        if not isinstance(scope, str):
            raise TypeError(
                'scopes are texts: get_token("https://vault.azure.net/.default"), and no '
                + type(scope).__name__
            )


def is_cacheable(options: Mapping[str, Any], more: Mapping[str, Any]) -> bool:
    """Whether nothing is asked for that is not known here, such as proof of possession."""
    unknown = [options[name] for name in options.keys() - _OPTIONS]
    return not any(unknown) and not any(more.values())


def ask_credential(
    credential: Any, scopes: Tuple[str, ...], options: TokenRequestOptions, more: Mapping[str, Any]
) -> Any:
    """Calls ``credential``, by the one of its methods that says more."""
    if hasattr(credential, "get_token_info") and not more:
        return credential.get_token_info(*scopes, options=options)
    # Not every one knows every option.
    given = {name: value for name, value in options.items() if value}
    return credential.get_token(*scopes, **given, **more)


def as_info(token: Union[AccessToken, AccessTokenInfo]) -> AccessTokenInfo:
    """What a credential has given, whichever of its methods that was."""
    if inspect.isawaitable(token):
        close = getattr(token, "close", None)
        if close:
            close()
        raise TypeError(
            "the credential is asynchronous: use strongroom.azure.aio.PersistedCredential"
        )
    if hasattr(token, "token_type"):
        return cast(AccessTokenInfo, token)
    return AccessTokenInfo(token.token, int(token.expires_on))


def options_of(
    claims: Optional[str], tenant_id: Optional[str], enable_cae: bool
) -> TokenRequestOptions:
    """The arguments of ``get_token`` as those of ``get_token_info``."""
    options: TokenRequestOptions = {}
    if claims:
        options["claims"] = claims
    if tenant_id:
        options["tenant_id"] = tenant_id
    if enable_cae:
        options["enable_cae"] = enable_cae
    return options


def _cache_of(cache: CacheLike) -> PersistedTokenCache:
    if isinstance(cache, PersistedTokenCache):
        return cache
    if isinstance(cache, (str, os.PathLike)):
        return PersistedTokenCache(build_encrypted_persistence(os.fspath(cache)))
    if all(hasattr(cache, name) for name in ("load", "save", "time_last_modified", "get_location")):
        return PersistedTokenCache(cache)
    raise TypeError("cache must be a PersistedTokenCache, a persistence, or the path of a file")


def _found(ask: Ask, entry: Mapping[str, Any], now: int) -> Optional[Found]:
    # Scopes of another resource may be among more of them.
    if set(entry["target"].lower().split()) != {scope.lower() for scope in ask.scopes}:
        return None
    cached_at, expires_on = int(entry["cached_at"]), int(entry["expires_on"])
    # One of the future: the clock was set back, and when it ends cannot be told.
    if expires_on <= now or cached_at > now + _SKEW or entry["token_type"].lower() != "bearer":
        return None
    refresh_on = int(entry["refresh_on"]) if entry.get("refresh_on") else None
    info = AccessTokenInfo(entry["secret"], expires_on, token_type="Bearer", refresh_on=refresh_on)
    margin = min(_MARGIN, max(0, expires_on - cached_at) // 5)
    is_in_margin = expires_on - now <= margin
    is_due = False
    if refresh_on is not None and refresh_on <= now:
        is_due = refresh_on + _jitter(ask, cached_at, refresh_on, expires_on - margin) <= now
    return Found(info, is_due or is_in_margin, is_in_margin)


def _jitter(ask: Ask, cached_at: int, refresh_on: int, end: int) -> int:
    """How long after ``refresh_on`` this node renews the token: fixed for node and token."""
    spread = min((end - refresh_on) // 2, (refresh_on - cached_at) // 5)
    if spread <= 0:
        return 0
    return zlib.crc32(repr((platform.node(), ask, cached_at, end)).encode()) % spread


def _is_plain(method: object) -> bool:
    """Whether it is a function that gives no coroutine, as far as can be told without a call."""
    inner = inspect.unwrap(method) if callable(method) else method
    return inspect.isroutine(inner) and not inspect.iscoroutinefunction(inner)


# Which credential that does not say whose tokens it gives has which place in which cache.
_claims: Dict[Tuple[str, str], Any] = {}
_claims_lock = threading.Lock()
_OPTIONS = frozenset(("claims", "tenant_id", "enable_cae"))


def _claim(cache: PersistedTokenCache, digest: str, credential: object) -> None:
    """Sees to it that of credentials that look alike but may not be, a process uses one.

    One that was used before and is gone counts too: a program that makes one for each of its users
    does not keep them.
    """
    name = type(credential).__name__
    persistence = cache._persistence  # pyright: ignore[reportPrivateUsage]
    location = os.path.realpath(persistence.get_location())
    with _claims_lock:
        claimed = _claims.get((location, digest))
        if claimed is None:
            try:
                _claims[location, digest] = weakref.ref(credential)
            except TypeError:
                _claims[location, digest] = lambda: credential
        elif claimed() is not credential:
            raise ValueError(
                f"it cannot be told whose tokens a {name} gives, and another one like it has used "
                "this cache: say whose they are, PersistedCredential(..., identity='...')"
            )
    if claimed is None:
        LOG.warning(
            "it cannot be told whose tokens a %s gives, so a later one of this program, its user, "
            "and the same attributes gets those in the cache: say whose they are, "
            "PersistedCredential(..., identity='...')",
            name,
        )


def _after_fork() -> None:
    global _claims_lock
    _claims_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
