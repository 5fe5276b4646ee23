"""Errors of the native half, as the exceptions that users of ``msal_extensions`` and of ``msal`` know."""

from __future__ import annotations

import errno as _errno
import json
from typing import Optional

_SEALED = frozenset(
    (
        "not_sealed",
        "later_version",
        "truncated",
        "other_contents",
        "wrong_key",
        "tampered",
        "unknown_key",
        "unsupported_key_source",
        "key_lost",
        "dpapi_decryption_failed",
    )
)
_NOT_TO_BE_SEALED = frozenset(
    (
        "dpapi_encryption_failed",
        "invalid_keys",
        "key_source_not_writable",
        "key_source_unavailable",
        "no_encryption",
        "no_key",
        "no_randomness",
    )
)
_OF_THE_PROCESS = frozenset(
    ("assertion_provider_busy", "assertion_provider_panicked", "no_thread", "python_has_ended")
)
_DOCUMENT = frozenset(
    ("byte_order_mark", "damaged", "not_a_token_cache", "too_deep", "too_large", "unusable_section")
)
_ERRNO = {
    "contended": _errno.EAGAIN,
    "permission_denied": _errno.EACCES,
    "read_only": _errno.EROFS,
    "unsafe_directory": _errno.EACCES,
    "unsafe_link": _errno.ELOOP,
    "wrong_owner": _errno.EACCES,
}


def exception(
    kind: str, code: str, message: str, remedy: Optional[str] = None, errno: Optional[int] = None
) -> Exception:
    """The exception for an error of the library, with its ``code`` and its ``remedy``."""
    error = _exception(kind, code, f"{message}; {remedy}" if remedy else message, errno)
    error.code = code  # type: ignore[attr-defined]
    error.remedy = remedy  # type: ignore[attr-defined]
    return error


def of_client(
    kind: str,
    code: str,
    message: str,
    remedy: Optional[str],
    status: Optional[int],
    in_discovery: bool,
    retry_after: Optional[int],
) -> Exception:
    """The exception for what is no dictionary: the provider failed, was not to be reached, or is not what answered."""
    text = f"{message}; {remedy}" if remedy else message
    error = _of_client(kind, code, text, status, in_discovery)
    error.code = code  # type: ignore[attr-defined]
    error.remedy = remedy  # type: ignore[attr-defined]
    error.retry_after = retry_after  # type: ignore[attr-defined]
    return error


def _of_client(
    kind: str, code: str, text: str, status: Optional[int], in_discovery: bool
) -> Exception:
    from .exceptions import service_error

    if status is not None and status >= 500:
        return service_error(f"HTTP Error: {status}", code, text)
    if in_discovery:
        return ValueError(f"Unable to get authority configuration: {text}")
    if status is not None or code in ("unexpected_answer", "invalid_claims"):
        return json.JSONDecodeError(text, "", 0)
    if kind == "configuration":
        return ValueError(text)
    if kind == "identity_provider":
        return service_error(text, code, text)
    is_late = code in ("timed_out", "assertion_timed_out")
    return TimeoutError(text) if is_late else ConnectionError(text)


def is_not_found(error: BaseException) -> bool:
    """Whether this is a ``PersistenceNotFound``, be it ours or that of ``msal_extensions``."""
    return any(one.__name__ == "PersistenceNotFound" for one in type(error).__mro__)


def _exception(kind: str, code: str, text: str, errno: Optional[int]) -> Exception:
    from . import persistence

    if kind == "locked":
        from .cache_lock import LockError

        return LockError(text)
    if kind == "configuration":
        return ValueError(text)
    if code in _OF_THE_PROCESS:
        return RuntimeError(text)
    if code in _SEALED:
        return persistence.PersistenceDecryptionError(errno, text)
    if code in _NOT_TO_BE_SEALED:
        return persistence.PersistenceEncryptionError(errno, text)
    if code in _DOCUMENT and kind == "unusable" and errno is None:
        return json.JSONDecodeError(text, "", 0)
    if code == "not_a_file":
        errno = _errno.EISDIR if "directory" in text else _errno.EINVAL
    errno = errno or _ERRNO.get(code)
    if errno is not None:
        # The class follows from the number: PermissionError, IsADirectoryError, ...
        return OSError(errno, text)
    return persistence.PersistenceError(message=text)
