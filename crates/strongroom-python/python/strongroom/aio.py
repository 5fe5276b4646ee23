"""The client for ``asyncio``: as :mod:`strongroom.client`, with coroutines for methods."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Callable, Dict, List, Mapping, Optional, Type

from . import _strongroom
from .client import (
    PATIENCE,
    _Base,  # pyright: ignore[reportPrivateUsage]
    accounts,
    home_account_id,
)

__all__ = ["ConfidentialClientApplication"]


class ConfidentialClientApplication(_Base, _strongroom.Application):
    """An application that signs in as itself, for programs that use ``asyncio``.

    Its arguments and results are those of :class:`strongroom.ConfidentialClientApplication`::

        from strongroom.aio import ConfidentialClientApplication

        async def main():
            async with ConfidentialClientApplication(
                "6731de76-14a6-49ae-97bc-6eba6914391e",
                client_credential="the secret's value",
                authority="https://login.microsoftonline.com/contoso.onmicrosoft.com",
                token_cache="token_cache.bin",
            ) as app:
                result = await app.acquire_token_for_client(["https://graph.microsoft.com/.default"])

    A token from memory is there without the event loop being asked for anything. A task that is cancelled gives up for
    itself alone: who waits for the same token, in whatever task, thread or process, still gets it. One object may be used
    by several event loops, also at the same time.
    """

    async def acquire_token_for_client(
        self,
        scopes: List[str],
        claims_challenge: Optional[str] = None,
        fmi_path: Optional[str] = None,
        forwarded_client_claims: Optional[str] = None,
        **kwargs: Any,
    ) -> Dict[str, Any]:
        """The application's own token for a list of scopes, ``["RESOURCE/.default"]``.

        See :meth:`strongroom.ConfidentialClientApplication.acquire_token_for_client`.
        """
        answer: Any = self._for_client(scopes, claims_challenge, fmi_path, forwarded_client_claims, **kwargs)
        found: Dict[str, Any] = await _finished(answer) if isinstance(answer, _strongroom.Pending) else answer
        return found

    async def acquire_token_silent(
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
        answer = await self.acquire_token_silent_with_error(
            scopes, account, authority, force_refresh, claims_challenge, forwarded_client_claims, auth_scheme, **kwargs
        )
        return answer if answer and "error" not in answer else None

    async def acquire_token_silent_with_error(
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
        found: Optional[Dict[str, Any]] = (
            await _finished(answer) if isinstance(answer, _strongroom.Pending) else answer
        )
        return found

    async def get_accounts(self, username: Optional[str] = None) -> List[Dict[str, Any]]:
        """The users that are in the cache, as dictionaries; those with this name, in whatever case, if one is given."""
        return accounts(await _finished(self._accounts()), username)

    async def remove_account(self, account: Mapping[str, Any]) -> None:
        """Removes a user with all tokens. What another program writes back is removed again, for 90 days."""
        user = home_account_id(account)
        if user:
            await _finished(self._remove_account(user, str(account["environment"])))

    async def remove_tokens_for_client(self) -> None:
        """Removes all of the application's own tokens, for whatever scopes."""
        await _finished(self._remove_tokens())

    async def close(self) -> None:
        """Waits for renewals in the background, 2 seconds at most. The object can still be used."""
        try:
            await asyncio.wait_for(_finished(self._ended()), PATIENCE)
        except asyncio.TimeoutError:
            pass

    async def __aenter__(self) -> ConfidentialClientApplication:
        return self

    async def __aexit__(
        self,
        exc_type: Optional[Type[BaseException]] = None,
        exc_value: Optional[BaseException] = None,
        traceback: Optional[TracebackType] = None,
    ) -> None:
        await self.close()


async def _finished(pending: _strongroom.Pending) -> Any:
    """Goes on with it whenever there is progress, in the event loop's own thread."""
    loop = asyncio.get_running_loop()
    try:
        while True:
            woken = loop.create_future()
            done = pending.poll(_waker(loop, woken))
            if done is not None:
                return done[0]
            await woken
    finally:
        pending.cancel()


def _waker(loop: asyncio.AbstractEventLoop, woken: "asyncio.Future[None]") -> Callable[[], object]:
    def wake() -> None:
        if not woken.done():
            woken.set_result(None)

    return lambda: loop.call_soon_threadsafe(wake)
