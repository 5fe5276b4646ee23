"""A persisted, encrypted token cache for MSAL Python, in place of ``msal_extensions``, and a client that needs no ``msal``.

Change ``import msal_extensions`` to ``import strongroom as msal_extensions``, and nothing else::

    persistence = msal_extensions.build_encrypted_persistence("token_cache.bin")
    cache = msal_extensions.PersistedTokenCache(persistence)
    app = msal.ConfidentialClientApplication(..., token_cache=cache)

Or without ``msal``, with the same arguments and results::

    app = strongroom.ConfidentialClientApplication(..., token_cache=persistence)
    result = app.acquire_token_for_client(["https://graph.microsoft.com/.default"])

All names of ``msal_extensions`` 1.3.1 are here and in the modules ``persistence``, ``token_cache``, ``cache_lock`` and so on.
Log records go to the logger ``strongroom``.
"""

from __future__ import annotations

try:
    from . import _strongroom as _strongroom
except ImportError as _error:
    if "subinterpreter" in str(_error):  # As Python itself says it, since 3.12.
        raise ImportError("strongroom does not work in sub-interpreters") from _error
    raise

from . import persistence as persistence
from ._version import __version__ as __version__
from .persistence import (
    FilePersistence as FilePersistence,
    FilePersistenceWithDataProtection as FilePersistenceWithDataProtection,
    KeychainPersistence as KeychainPersistence,
    LibsecretPersistence as LibsecretPersistence,
    SealedFilePersistence as SealedFilePersistence,
    build_encrypted_persistence as build_encrypted_persistence,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from . import aio as aio, cache_lock as cache_lock, filelock as filelock, token_cache as token_cache
    from .cache_lock import CrossPlatLock as CrossPlatLock, LockError as LockError
    from .client import ConfidentialClientApplication as ConfidentialClientApplication
    from .exceptions import MsalError as MsalError, MsalServiceError as MsalServiceError
    from .token_cache import PersistedTokenCache as PersistedTokenCache

__all__ = [
    "ConfidentialClientApplication",
    "CrossPlatLock",
    "FilePersistence",
    "FilePersistenceWithDataProtection",
    "KeychainPersistence",
    "LibsecretPersistence",
    "LockError",
    "MsalError",
    "MsalServiceError",
    "PersistedTokenCache",
    "SealedFilePersistence",
    "aio",
    "build_encrypted_persistence",
    "cache_lock",
    "filelock",
    "persistence",
    "token_cache",
]

# What imports msal, portalocker or asyncio, where they are installed, and the client: only who uses it waits for that.
_LAZY = {
    "ConfidentialClientApplication": "client",
    "CrossPlatLock": "cache_lock",
    "LockError": "cache_lock",
    "MsalError": "exceptions",
    "MsalServiceError": "exceptions",
    "PersistedTokenCache": "token_cache",
    "aio": None,
    "cache_lock": None,
    "filelock": None,
    "token_cache": None,
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Not by `importlib`, which imports more than this package does.
    module = __import__(f"{__name__}.{_LAZY[name] or name}", fromlist=("",))
    value = module if _LAZY[name] is None else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
