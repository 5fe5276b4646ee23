"""A token cache for MSAL Python that lies in a persistence, shared with other processes and languages."""

from __future__ import annotations

import os
from _thread import RLock, get_ident
from _weakrefset import WeakSet

from ._base import NotPicklable
from ._native_cache import native_cache as _native_cache
from .persistence import BasePersistence, PersistenceNotFound as PersistenceNotFound

# `json`, `threading`, `typing` and their like take longer to import than a token takes to be found.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple

    from ._msal import SerializableTokenCache
    from .cache_lock import CrossPlatLock as CrossPlatLock, LockError as LockError

    _Operation = Tuple[str, str, str, bool]
else:
    try:
        from msal import SerializableTokenCache
    except ImportError:
        from ._stand_in import SerializableTokenCache

__all__ = ["CrossPlatLock", "LockError", "PersistedTokenCache", "PersistenceNotFound"]


class PersistedTokenCache(NotPicklable, SerializableTokenCache):
    """A token cache in a persistence, for any application of MSAL Python.

    An ``msal.SerializableTokenCache`` where ``msal`` is installed; elsewhere a class with the same methods.

    Each ``add`` is one step: one lock cycle, one write. A look-up takes no lock, reads nothing that has not changed, and
    writes nothing. Any number of threads and processes may use one cache; so may the other MSALs.

    ``serialize``, ``deserialize`` and the attributes that begin with ``_`` are about what is in memory: what was read or
    written last.

    :param persistence: where the cache is kept. One of this package's, or any object with the methods of
        ``BasePersistence``; its exceptions come out as they are.
    :param lock_location: the lock file, ``<location>.lockfile`` by default.
    :param lock_timeout: how many seconds a change waits for the lock.
    :param dialect: which languages' programs share the cache, joined with ``+``: ``python``, ``node``, ``java``, ``go``,
        ``dotnet``. For ``python`` and ``node`` together an application's own tokens are stored twice, as each of them
        finds them; ``dotnet`` beside both is refused. With ``java`` the lock of MSAL4J's persistence extension is taken
        too. By default ``python``.
    :raises ValueError: ``dialect`` names no language, or some that cannot be together.
    """

    has_state_changed: bool = False

    def __init__(
        self,
        persistence: BasePersistence,
        lock_location: Optional[str] = None,
        *,
        lock_timeout: float = 10.0,
        dialect: Optional[str] = None,
    ) -> None:
        _check(persistence)
        self._pending: Dict[int, List[_Operation]] = {}
        self._view: Optional[Tuple[str, Mapping[str, Any]]] = None
        self._persistence = persistence
        self.is_encrypted: bool = persistence.is_encrypted
        self._native, self._lock_location = _native_cache(persistence, lock_location, lock_timeout, dialect)
        super().__init__()
        _caches.add(self)

    def search(
        self,
        credential_type: str,
        *,
        target: Optional[List[str]] = None,
        query: Optional[Mapping[str, Any]] = None,
        now: Optional[float] = None,
    ) -> Iterator[Dict[str, Any]]:
        """The entries of one type that have these scopes and these fields, the best first.

        A question with a tenant or scopes is one for a token to use: it is answered by those alone that were issued for
        it. One without asks what there is.

        :param target: a list of scopes.
        :param query: fields, by name. ``home_account_id: None`` asks for an application's own tokens.
        :param now: the time that tokens expire by, in Unix seconds.
        """
        found = self._native.known(credential_type, target, query, now)
        if found is None:
            found = self._found(credential_type, list(target or ()), dict(query or ()), now)
        return map(_copy, found)

    def find(
        self,
        credential_type: str,
        target: Optional[List[str]] = None,
        query: Optional[Mapping[str, Any]] = None,
        *,
        now: Optional[float] = None,
    ) -> List[Dict[str, Any]]:
        """Deprecated: ``list(search(...))``."""
        import warnings

        warnings.warn(
            "Use list(search(...)) instead to explicitly get a list.", DeprecationWarning, stacklevel=2
        )
        return list(self.search(credential_type, target=target, query=query, now=now))

    def add(self, event: Mapping[str, Any], **kwargs: Any) -> None:
        """Stores what a token response brought, as one step.

        :param now: the time of the response, in Unix seconds.
        """
        now = kwargs.get("now")
        # What is modified meanwhile in this thread is stored at the end, all of it or nothing.
        step: List[_Operation] = []
        self._pending[get_ident()] = step
        try:
            super().add(event, **kwargs)
        finally:
            self._pending.pop(get_ident(), None)
        for operations in _in_order(step):
            sweep = any(kind == self.CredentialType.ACCESS_TOKEN for kind, *_ in operations)
            self._native.change(operations, None if now is None else int(now), sweep)

    def modify(
        self,
        credential_type: str,
        old_entry: Mapping[str, Any],
        new_key_value_pairs: Optional[Mapping[str, Any]] = None,
    ) -> None:
        """Stores ``old_entry`` with some fields changed, or removes it if there are none.

        What an entry is, its fields say: it is found and replaced or removed under whatever key another language has
        stored it.
        """
        key = self.key_makers[credential_type](**old_entry)
        if credential_type not in _SECTIONS:
            raise ValueError(f"{credential_type!r} is no section of a token cache")
        removed = not new_key_value_pairs
        entry = dict(old_entry, **(new_key_value_pairs or {}))
        if credential_type == self.CredentialType.APP_METADATA and not (
            entry.get("client_id") and entry.get("environment")
        ):
            # Of an event that says nothing. It is of no use to anybody.
            return
        import json

        operation = (credential_type, key, json.dumps(entry), removed)
        step = self._pending.get(get_ident())
        if step is None:
            self._native.change([operation], None, False)
        else:
            step.append(operation)
        self.has_state_changed = False

    def serialize(self) -> str:
        """The cache as it was last read or written, as JSON. Reads nothing and writes nothing."""
        self.has_state_changed = False
        return self._native.serialize() or "{}"

    def deserialize(self, state: Optional[str]) -> None:
        """Takes ``state`` for what is in memory, until what is kept changes. Writes nothing: the next change does."""
        if state:
            import json

            # Complains of what is no JSON as it always has.
            json.loads(state)
        self._native.deserialize(state or "{}")
        self.has_state_changed = False

    @property
    def protection(self) -> str:
        """How well it is protected at rest: ``none``, ``host-file``, ``provided-key`` or ``os-store``."""
        return self._native.protection

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._persistence!r})"

    @property
    def _cache(self) -> Mapping[str, Any]:
        """What is in memory, to be looked at."""
        text = self._native.serialize() or "{}"
        view = self._view
        if view is None or text != view[0]:
            import json
            from types import MappingProxyType

            view = self._view = (text, MappingProxyType(json.loads(text)))
        return view[1]

    @_cache.setter
    def _cache(self, value: Mapping[str, Any]) -> None:
        # The base class begins with an empty one.
        if value:
            raise AttributeError("_cache can be looked at, not set: use deserialize()")

    def _found(
        self, credential_type: str, target: List[str], query: Dict[str, Any], now: Optional[float]
    ) -> List[Dict[str, Any]]:
        if credential_type in _SECTIONS:
            return self._native.search(credential_type, target, query, now)
        # Of a section that is nobody's there are no rules but the parent's.
        self._native.refresh()
        entries = self._cache.get(credential_type, {}).values()
        return [entry for entry in entries if self._is_matching(entry, query, set(target))]

    def _get(self, credential_type: str, key: str, default: Any = None) -> Any:
        found = self._native.entry(credential_type, key)
        return default if found is None else found


def _check(persistence: Any) -> None:
    """A path alone does not say how the cache is to be kept there."""
    if isinstance(persistence, str) or hasattr(persistence, "__fspath__"):
        path = str(persistence)
        raise TypeError(
            f"persistence is an object, and no path: FilePersistence({path!r}), or "
            f"build_encrypted_persistence({path!r}) for a cache that is encrypted"
        )
    if not hasattr(persistence, "get_location"):
        raise TypeError(f"persistence is one of this package's, or like it, and no {type(persistence).__name__}")


_copy: Callable[[Dict[str, Any]], Dict[str, Any]] = getattr(dict, "copy")
_SECTIONS = frozenset(("AccessToken", "RefreshToken", "IdToken", "Account", "AppMetadata"))


def _in_order(step: List[_Operation]) -> Iterator[List[_Operation]]:
    """As few changes as can be. Within one, removals come first, so what is removed after it was stored is another."""
    start = 0
    for at in range(1, len(step) + 1):
        if at == len(step) or step[at][3] and not step[at - 1][3]:
            yield step[start:at]
            start = at


# A child that is forked while another thread is in `add` must not find its lock taken for ever.
_caches: WeakSet[PersistedTokenCache] = WeakSet()


def _after_fork() -> None:
    for cache in list(_caches):
        cache._lock = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def __getattr__(name: str) -> Any:
    # They are here as they are in `msal_extensions`, and import `portalocker`.
    if name not in ("CrossPlatLock", "LockError"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import cache_lock

    value = getattr(cache_lock, name)
    globals()[name] = value
    return value
