"""The native half of a cache, for the classes that share it."""

from __future__ import annotations

import os

from . import _strongroom
from ._base import make_directory
from .persistence import (
    BasePersistence,
    FilePersistence,
    FilePersistenceWithDataProtection,
    KeychainPersistence,
    LibsecretPersistence,
    SealedFilePersistence,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Tuple

# Those that the native half keeps by itself. A subclass may have overridden anything.
_NATIVE = (
    FilePersistence,
    FilePersistenceWithDataProtection,
    KeychainPersistence,
    LibsecretPersistence,
    SealedFilePersistence,
)


def native_cache(
    persistence: BasePersistence, lock_location: Optional[str] = None, lock_timeout: float = 10.0
) -> Tuple[_strongroom.Cache, str]:
    """The cache in a persistence, and where its lock file is."""
    location = os.fspath(persistence.get_location())
    lock = os.path.expanduser(lock_location) if lock_location else location + ".lockfile"
    make_directory(os.path.dirname(lock))
    inner: object = persistence
    if type(persistence) in _NATIVE and not {"load", "save", "time_last_modified"} & vars(persistence).keys():
        inner = getattr(persistence, "_native")
    return _strongroom.Cache(inner, location, bool(persistence.is_encrypted), lock, lock_timeout), lock
