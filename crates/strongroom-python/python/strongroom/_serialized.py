"""How the whole of an ``msal.SerializableTokenCache`` is read and replaced.

Whether it has changed since it was stored is for its owner to see, at any time and without a lock.
"""

from __future__ import annotations

import contextlib
import json
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ContextManager, Dict, Optional


def load(cache: Any) -> Optional[str]:
    """What is in the cache. That it is looked at does not make it one that has been stored."""
    with _lock(cache):
        return _document(cache)


def save(cache: Any, text: str, expected: Optional[str]) -> Optional[str]:
    """Replaces what is in the cache, if that is as expected. What is there then, which may be the same in other words."""
    with _lock(cache):
        if _document(cache) != expected:
            return None
        if _is_of_msal(cache, "deserialize"):
            # Its own would say for a moment that nothing has changed.
            cache._cache = json.loads(text) if text else {}
        else:
            cache.deserialize(text)
        cache.has_state_changed = True
        return _document(cache) or ""


def _document(cache: Any) -> Optional[str]:
    if _is_of_msal(cache, "serialize"):
        return json.dumps(cache._cache)
    has_changed: Any = getattr(cache, "has_state_changed", None)
    text: Optional[str] = cache.serialize()
    if has_changed is not None:
        cache.has_state_changed = has_changed
    return text


def _is_of_msal(cache: Any, method: str) -> bool:
    """Whether it has this method from msal, and keeps what that works with."""
    theirs: Any = getattr(sys.modules.get("msal.token_cache"), "SerializableTokenCache", None)
    kind: Any = getattr(cache, "__class__")
    if theirs not in kind.__mro__:
        return False
    own: Dict[str, Any] = getattr(cache, "__dict__")
    return getattr(kind, method) is getattr(theirs, method) and method not in own and "_cache" in own


def _lock(cache: Any) -> ContextManager[Any]:
    """The lock that the methods of MSAL's caches take."""
    lock: Any = getattr(cache, "_lock", None)
    return contextlib.nullcontext() if lock is None else lock
