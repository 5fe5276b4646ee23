"""The same lock under the name that ``msal_extensions`` has it where ``portalocker`` is not installed."""

from __future__ import annotations

from .cache_lock import CrossPlatLock as CrossPlatLock, LockError as LockError
