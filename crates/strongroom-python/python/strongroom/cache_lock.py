"""The lock file that programs of all languages take around a change of a cache."""

from __future__ import annotations

import os
from types import TracebackType
from typing import TYPE_CHECKING, Optional, Type, Union

from . import _strongroom
from ._base import NotPicklable

__all__ = ["CrossPlatLock", "LockError"]

if TYPE_CHECKING:
    _LockExceptions = RuntimeError
else:
    try:
        from portalocker.exceptions import LockException

        class _LockExceptions(LockException, RuntimeError):
            pass

    except ImportError:
        _LockExceptions = RuntimeError


class LockError(_LockExceptions):
    """Somebody else held the lock all the time.

    A ``RuntimeError``, and where ``portalocker`` is installed its ``LockException``: whoever catches the ``LockError`` of
    ``msal_extensions`` catches this one.
    """


class CrossPlatLock(NotPicklable):
    """The lock file at a path, taken and deleted by ``with``.

    It is not re-entrant. Its directory must be there. What a program left behind that has ended is taken over at once.

    :param timeout: how many seconds to wait for it.
    """

    def __init__(self, lockfile_path: Union[str, "os.PathLike[str]"], *, timeout: float = 10.0) -> None:
        self._lockpath = lockfile_path
        self._timeout = timeout
        self._lock: Optional[_strongroom.Lock] = None

    def __enter__(self) -> CrossPlatLock:
        lock = _strongroom.Lock.acquire(os.fspath(self._lockpath), self._timeout)
        self._lock = lock
        return self

    def __exit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc_value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({os.fspath(self._lockpath)!r})"
