"""A persisted cache in front of any asynchronous credential of ``azure-identity``::

from azure.identity.aio import ClientSecretCredential
from strongroom.azure.aio import PersistedCredential

async with PersistedCredential(ClientSecretCredential(...), cache="token_cache.bin") as
credential: token = await credential.get_token("https://vault.azure.net/.default")
"""

from __future__ import annotations

import asyncio
import time
import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Any, Dict, Mapping, MutableMapping, Optional, Set, Tuple, Type

from .._base import NotPicklable
from . import _tokens  # pyright: ignore[reportPrivateUsage]
from ._tokens import LOG, AccessToken, AccessTokenInfo, Ask, TokenRequestOptions, Tokens

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenProvider

    from ._tokens import CacheLike

    # Nothing came of it: somebody else renews the token.
    _Flight = asyncio.Task[Optional[AccessTokenInfo]]

__all__ = ["PersistedCredential"]

_Key = Tuple[Ask, Optional[str]]


class PersistedCredential(NotPicklable):
    """The asynchronous form of ``strongroom.azure.PersistedCredential``, with the same rules and
    the same tokens.

    It may be used in several event loops. Files and locks are waited for in threads, never in a
    loop.

    :param inner: the asynchronous credential that is asked for tokens. Its secrets are not stored.
    :param cache: a ``PersistedTokenCache``, a persistence, or the path of a file, which is
        encrypted then.
    :param identity: whose tokens they are, in words of the program's own: the same for the same
        identity, and for no other.
    """

    def __init__(
        self, inner: AsyncTokenProvider, *, cache: CacheLike, identity: Optional[str] = None
    ) -> None:
        _tokens.check_credential(inner, is_async=True)
        self._inner = inner
        self._tokens = Tokens(inner, cache, identity)
        self._flights: MutableMapping[asyncio.AbstractEventLoop, Dict[_Key, _Flight]]
        self._flights = weakref.WeakKeyDictionary()
        self._renewals: Set[_Flight] = set()

    async def get_token(
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
        info = await self._token(scopes, options, kwargs)
        return AccessToken(info.token, info.expires_on)

    async def get_token_info(
        self, *scopes: str, options: Optional[TokenRequestOptions] = None
    ) -> AccessTokenInfo:
        """As ``get_token``, with the type of the token and the time to renew it.

        :param options: ``claims``, ``tenant_id`` and ``enable_cae``. With any other one the token
            is not cached.
        """
        return await self._token(scopes, options or {}, {})

    async def close(self) -> None:
        """Waits for renewals, 2 seconds at most, and closes the inner credential."""
        await self._end_renewals()
        close = getattr(self._inner, "close", None)
        if close:
            await close()

    async def __aenter__(self) -> PersistedCredential:
        enter = getattr(self._inner, "__aenter__", None)
        if enter:
            await enter()
        return self

    async def __aexit__(
        self,
        exc_type: Optional[Type[BaseException]] = None,
        exc_value: Optional[BaseException] = None,
        traceback: Optional[TracebackType] = None,
    ) -> None:
        leave = getattr(self._inner, "__aexit__", None)
        if leave:
            await self._end_renewals()
            await leave(exc_type, exc_value, traceback)
        else:
            await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self._inner).__name__}, cache={self._tokens!r})"

    async def _token(
        self, scopes: Tuple[str, ...], options: TokenRequestOptions, more: Mapping[str, Any]
    ) -> AccessTokenInfo:
        _tokens.check_scopes(scopes)
        ask = None
        if scopes and _tokens.is_cacheable(options, more):
            ask = await asyncio.to_thread(self._tokens.ask, scopes, options)
        if ask is None:
            return await self._ask_inner(scopes, options, more)
        found = None if options.get("claims") else await asyncio.to_thread(self._tokens.look, ask)
        if found is None:
            return await self._fetch(ask, scopes, options)
        if found.is_due:
            flight = self._renew(ask, scopes, options)
            if flight and found.is_in_margin:
                await asyncio.wait([flight], timeout=_tokens.PATIENCE_IN_MARGIN)
                if flight.done() and not flight.cancelled() and not flight.exception():
                    return flight.result() or found.info
        return found.info

    async def _fetch(
        self, ask: Ask, scopes: Tuple[str, ...], options: TokenRequestOptions
    ) -> AccessTokenInfo:
        """A token from the inner credential, or from whoever here asks for the same one already."""
        key = (ask, options.get("claims"))
        for _ in range(2):
            flight = self._flights_here().get(key)
            is_own = flight is None
            if flight is None:
                flight = self._begin(
                    key, self._obtain(ask, scopes, options, _tokens.PATIENCE_OF_HOST)
                )
            # A caller who goes away takes nobody's token with him.
            patience = None if is_own else _tokens.PATIENCE
            await asyncio.wait([flight], timeout=patience)
            if flight.done() and not flight.cancelled():
                fetched = flight.result()
                if fetched is not None:
                    return fetched
            # Nobody else is to wait for that one.
            self._forget(key, flight)
        return await self._request(ask, scopes, options)

    def _renew(
        self, ask: Ask, scopes: Tuple[str, ...], options: TokenRequestOptions
    ) -> Optional[_Flight]:
        """The renewal in the background, if there is one, or can be."""
        flight = self._flights_here().get((ask, None))
        if (
            flight
            or len(self._renewals) >= _tokens.MOST_RENEWALS
            or not self._tokens.may_renew(ask)
        ):
            return flight
        flight = self._begin((ask, None), self._obtain(ask, scopes, options, 0.0))
        self._renewals.add(flight)
        flight.add_done_callback(self._renewals.discard)
        flight.add_done_callback(_log)
        return flight

    def _begin(self, key: _Key, fetch: Any) -> _Flight:
        flight: _Flight = asyncio.get_running_loop().create_task(fetch)
        self._flights_here()[key] = flight

        def end(flight: _Flight) -> None:
            self._forget(key, flight)
            # All who waited may have gone away.
            if not flight.cancelled():
                flight.exception()

        flight.add_done_callback(end)
        return flight

    async def _obtain(
        self, ask: Ask, scopes: Tuple[str, ...], options: TokenRequestOptions, patience: float
    ) -> Optional[AccessTokenInfo]:
        """Asks for a token, as one process of this host at a time does, or finds another's.

        Without patience nothing comes of it if another process asks.
        """
        if options.get("claims"):
            return await self._request(ask, scopes, options)
        deadline = time.monotonic() + patience
        for _ in range(2):
            remaining = max(0.0, deadline - time.monotonic())
            lead = await asyncio.to_thread(self._tokens.lead, ask, remaining)
            try:
                if lead.state in ("taken", "ended"):
                    found = await asyncio.to_thread(self._tokens.look, ask)
                    if found and not found.is_due:
                        return found.info
                elif not patience and lead.state == "busy":
                    return None
                if lead.state != "ended":
                    return await self._request(ask, scopes, options)
            finally:
                lead.release()
        return await self._request(ask, scopes, options)

    async def _request(
        self, ask: Ask, scopes: Tuple[str, ...], options: TokenRequestOptions
    ) -> AccessTokenInfo:
        began = int(time.time())
        info = await self._ask_inner(scopes, options, {})
        await asyncio.to_thread(self._tokens.store, ask, info, began)
        return info

    async def _ask_inner(
        self, scopes: Tuple[str, ...], options: TokenRequestOptions, more: Mapping[str, Any]
    ) -> AccessTokenInfo:
        token = _tokens.ask_credential(self._inner, scopes, options, more)
        if not hasattr(token, "__await__"):
            raise TypeError(
                "the credential is not asynchronous: use strongroom.azure.PersistedCredential"
            )
        return _tokens.as_info(await token)

    def _flights_here(self) -> Dict[_Key, _Flight]:
        return self._flights.setdefault(asyncio.get_running_loop(), {})

    def _forget(self, key: _Key, flight: _Flight) -> None:
        flights = self._flights_here()
        if flights.get(key) is flight:
            del flights[key]

    async def _end_renewals(self) -> None:
        loop = asyncio.get_running_loop()
        renewals = [flight for flight in self._renewals if flight.get_loop() is loop]
        if renewals:
            _, late = await asyncio.wait(renewals, timeout=_tokens.PATIENCE_AT_END)
            for flight in late:
                flight.cancel()


def _log(flight: _Flight) -> None:
    error = None if flight.cancelled() else flight.exception()
    if error:
        LOG.warning(
            "a token could not be renewed, and is served as long as it lives: %s",
            type(error).__name__,
        )
        LOG.debug("why the token could not be renewed", exc_info=error)
