"""A persisted cache in front of any credential of ``azure-identity``, or of one like it::

    from azure.identity import ClientSecretCredential
    from strongroom.azure import PersistedCredential

    credential = PersistedCredential(ClientSecretCredential(...), cache="token_cache.bin")
    client = SecretClient(vault_url, credential)

For credentials of ``azure.identity.aio`` there is ``strongroom.azure.aio``. Log records go to the
logger ``strongroom.azure``.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from concurrent.futures import CancelledError, Future, TimeoutError as FutureTimeout
from types import TracebackType
from typing import TYPE_CHECKING, Any, Dict, Mapping, Optional, Set, Tuple, Type

from .._base import NotPicklable
from . import _tokens as _tokens
from ._tokens import LOG, AccessToken, AccessTokenInfo, Ask, TokenRequestOptions, Tokens

if TYPE_CHECKING:
    from azure.core.credentials import TokenProvider

    from ._tokens import CacheLike

__all__ = ["PersistedCredential"]

# Nothing came of it: somebody else renews the token.
_Flight = Future[Optional[AccessTokenInfo]]
_Key = Tuple[Ask, Optional[str]]


class PersistedCredential(NotPicklable):
    """A credential whose tokens are kept in a cache: the next run of a program finds them.

    A token is asked for once, however many threads and processes of this host want it at a time.
    One that is due for renewal is served while it is renewed in the background; one whose renewal
    fails is served as long as it lives. Tokens for Continuous Access Evaluation are kept apart from
    others; those with proof of possession are not kept; a claims challenge is always passed on, and
    its token takes the place of the one that was challenged.

    Whose tokens they are is told from the credential: its class, its authority and tenant, its
    client id, its user or its user's assertion; for what is signed in on this machine, from who
    that is at the time of each call; for what is the machine's own, from the machine. Where that
    cannot be read, such as while nobody is signed in, nothing is kept.

    Of any other credential nothing is certain. Its tokens are those of its class, in this program,
    for this user of this machine, with the attributes that it has by now; a warning says so. What
    cannot be told from them, the program must say, by ``identity``; two such credentials in one
    process, and one cache, are a ``ValueError``.

    :param inner: the credential that is asked for tokens. Its secrets are not stored.
    :param cache: a ``PersistedTokenCache``, a persistence, or the path of a file, which is
        encrypted then.
    :param identity: whose tokens they are, in words of the program's own: the same for the same
        identity, and for no other. A user's name and tenant, say. It is not stored, only a hash of
        it is.
    """

    def __init__(
        self, inner: TokenProvider, *, cache: CacheLike, identity: Optional[str] = None
    ) -> None:
        _tokens.check_credential(inner, is_async=False)
        self._inner = inner
        self._tokens = Tokens(inner, cache, identity)
        self._mutex = threading.Lock()
        self._flights: Dict[_Key, _Flight] = {}
        _credentials.add(self)

    def get_token(
        self,
        *scopes: str,
        claims: Optional[str] = None,
        tenant_id: Optional[str] = None,
        enable_cae: bool = False,
        **kwargs: Any,
    ) -> AccessToken:
        """A token for ``scopes``, from the cache or the inner credential.

        :param scopes: what the token is for, usually one scope that ends in ``/.default``.
        :param claims: of a claims challenge. No cached token answers it.
        :param tenant_id: another tenant than the credential's own.
        :param enable_cae: whether the token may be one for Continuous Access Evaluation.
        """
        options = _tokens.options_of(claims, tenant_id, enable_cae)
        info = self._token(scopes, options, kwargs)
        return AccessToken(info.token, info.expires_on)

    def get_token_info(
        self, *scopes: str, options: Optional[TokenRequestOptions] = None
    ) -> AccessTokenInfo:
        """As ``get_token``, with the type of the token and the time to renew it.

        :param options: ``claims``, ``tenant_id`` and ``enable_cae``. With any other one the token
            is not cached.
        """
        return self._token(scopes, options or {}, {})

    def close(self) -> None:
        """Waits for renewals, 2 seconds at most, and closes the inner credential."""
        self._await_renewals()
        close = getattr(self._inner, "close", None)
        if close:
            close()

    def __enter__(self) -> PersistedCredential:
        enter = getattr(self._inner, "__enter__", None)
        if enter:
            enter()
        return self

    def __exit__(
        self,
        exc_type: Optional[Type[BaseException]] = None,
        exc_value: Optional[BaseException] = None,
        traceback: Optional[TracebackType] = None,
    ) -> None:
        leave = getattr(self._inner, "__exit__", None)
        if leave:
            self._await_renewals()
            leave(exc_type, exc_value, traceback)
        else:
            self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self._inner).__name__}, cache={self._tokens!r})"

    def _token(
        self, scopes: Tuple[str, ...], options: TokenRequestOptions, more: Mapping[str, Any]
    ) -> AccessTokenInfo:
        _tokens.check_scopes(scopes)
        is_cacheable = bool(scopes) and _tokens.is_cacheable(options, more)
        ask = self._tokens.ask(scopes, options) if is_cacheable else None
        if ask is None:
            return _tokens.as_info(_tokens.ask_credential(self._inner, scopes, options, more))
        found = None if options.get("claims") else self._tokens.look(ask)
        if found is None:
            return self._fetch(ask, scopes, options)
        if found.is_due:
            flight = self._renew(ask, scopes, options)
            if flight and found.is_in_margin:
                try:
                    return flight.result(_tokens.PATIENCE_IN_MARGIN) or found.info
                except (Exception, CancelledError):
                    # It is slow, or it has failed, which was logged.
                    pass
        return found.info

    def _fetch(
        self, ask: Ask, scopes: Tuple[str, ...], options: TokenRequestOptions
    ) -> AccessTokenInfo:
        """A token from the inner credential, or from whoever here asks for the same one already."""
        key = (ask, options.get("claims"))
        for _ in range(2):
            flight: _Flight = Future()
            with self._mutex:
                others = self._flights.setdefault(key, flight)
            if others is flight:
                fetched = self._fly(flight, key, scopes, options, _tokens.PATIENCE_OF_HOST)
                assert fetched is not None, "who has patience fetches"
                return fetched
            try:
                fetched = others.result(_tokens.PATIENCE)
                if fetched is not None:
                    return fetched
            except (CancelledError, FutureTimeout):
                if others.done() and not others.cancelled():
                    # The time-out is the credential's own.
                    raise
            # Nobody else is to wait for that one.
            self._forget(key, others)
        return self._request(ask, scopes, options)

    def _renew(
        self, ask: Ask, scopes: Tuple[str, ...], options: TokenRequestOptions
    ) -> Optional[_Flight]:
        """The renewal in the background, if there is one, or can be."""
        key = (ask, None)
        with self._mutex:
            flight = self._flights.get(key)
            if flight or not self._tokens.may_renew(ask) or not _renewals.begin():
                return flight
            flight = self._flights[key] = Future()

        def renew() -> None:
            try:
                self._fly(flight, key, scopes, options, 0.0)
            except Exception as error:
                LOG.warning(
                    "a token could not be renewed, and is served as long as it lives: %s",
                    type(error).__name__,
                )
                LOG.debug("why the token could not be renewed", exc_info=True)
            finally:
                _renewals.end()

        try:
            _renewals.start(renew)
        except RuntimeError:
            # No thread is to be had, or the process ends.
            self._forget(key, flight)
            flight.cancel()
            _renewals.end()
            return None
        return flight

    def _fly(
        self,
        flight: _Flight,
        key: _Key,
        scopes: Tuple[str, ...],
        options: TokenRequestOptions,
        patience: float,
    ) -> Optional[AccessTokenInfo]:
        """Fetches a token for all who wait for ``flight``."""
        try:
            fetched = self._obtain(key[0], scopes, options, patience)
        except Exception as error:
            self._forget(key, flight)
            flight.set_exception(error)
            raise
        except BaseException:
            # Ctrl-C is for this thread alone. The next one goes on.
            self._forget(key, flight)
            flight.cancel()
            raise
        self._forget(key, flight)
        flight.set_result(fetched)
        return fetched

    def _obtain(
        self, ask: Ask, scopes: Tuple[str, ...], options: TokenRequestOptions, patience: float
    ) -> Optional[AccessTokenInfo]:
        """Asks for a token, as one process of this host at a time does, or finds another's.

        Without patience nothing comes of it if another process asks.
        """
        if options.get("claims"):
            return self._request(ask, scopes, options)
        deadline = time.monotonic() + patience
        for _ in range(2):
            lead = self._tokens.lead(ask, max(0.0, deadline - time.monotonic()))
            try:
                if lead.state in ("taken", "ended"):
                    found = self._tokens.look(ask)
                    if found and not found.is_due:
                        return found.info
                elif not patience and lead.state == "busy":
                    return None
                if lead.state != "ended":
                    return self._request(ask, scopes, options)
            finally:
                lead.release()
        return self._request(ask, scopes, options)

    def _request(
        self, ask: Ask, scopes: Tuple[str, ...], options: TokenRequestOptions
    ) -> AccessTokenInfo:
        began = int(time.time())
        info = _tokens.as_info(_tokens.ask_credential(self._inner, scopes, options, {}))
        self._tokens.store(ask, info, began)
        return info

    def _forget(self, key: _Key, flight: _Flight) -> None:
        with self._mutex:
            if self._flights.get(key) is flight:
                del self._flights[key]

    def _await_renewals(self) -> None:
        deadline = time.monotonic() + _tokens.PATIENCE_AT_END
        with self._mutex:
            flights = list(self._flights.values())
        for flight in flights:
            try:
                flight.exception(max(0.0, deadline - time.monotonic()))
            except (CancelledError, FutureTimeout):
                pass

    def _after_fork(self) -> None:
        # Those who lead, and who hold the lock, have stayed in the parent.
        self._mutex = threading.Lock()
        self._flights = {}


class _Renewals:
    """The renewals of this process: a few at a time, and its end waits a moment for them."""

    def __init__(self) -> None:
        self._free = threading.BoundedSemaphore(_tokens.MOST_RENEWALS)
        self._threads: Set[threading.Thread] = set()

    def begin(self) -> bool:
        return self._free.acquire(blocking=False)

    def end(self) -> None:
        self._threads.discard(threading.current_thread())
        self._free.release()

    def start(self, renew: Any) -> None:
        # No process is kept alive by a credential that does not answer.
        thread = threading.Thread(target=renew, name="strongroom-renewal", daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:
            self._threads.discard(thread)
            raise

    def wait(self) -> None:
        deadline = time.monotonic() + _tokens.PATIENCE_AT_END
        for thread in list(self._threads):
            thread.join(max(0.0, deadline - time.monotonic()))


_renewals = _Renewals()
_credentials: "weakref.WeakSet[PersistedCredential]" = weakref.WeakSet()


def _after_fork() -> None:
    global _renewals
    _renewals = _Renewals()
    for credential in list(_credentials):
        credential._after_fork()  # pyright: ignore[reportPrivateUsage]


@atexit.register
def _at_exit() -> None:
    _renewals.wait()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
