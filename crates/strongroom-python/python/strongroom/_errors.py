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
# What the library says in words of the command line, and how it is said in Python.
_IN_PYTHON = (
    ("pass --ca-file or set SSL_CERT_FILE", "pass the path of its certificate as verify="),
    ("(--ca-file, SSL_CERT_FILE)", "(verify=)"),
    ("with --timeout", "with timeout="),
    ("then force a refresh, or wait", "then wait"),
    ("(persistence 'sealed')", "(SealedFilePersistence)"),
    ("the persistence 'file'", "FilePersistence"),
    # A sealed file finds its key by itself, and takes no source of one.
    (", with --persistence sealed or migrate's --to sealed", ""),
    ("(--key-source SOURCE)", "(STRONGROOM_KEY_FILE, STRONGROOM_KEY or a credential of systemd)"),
    (", or name the source that has it with --key-source", ""),
    ("choose another one with --key-source", "hand in a key with STRONGROOM_KEY_FILE"),
    ("pass --key-source passphrase-file:PATH", "open it with the command strongroom, which takes passphrases"),
    ("--persistence file", "FilePersistence"),
    ("--persistence sealed", "SealedFilePersistence"),
    ("--persistence dpapi", "FilePersistenceWithDataProtection"),
    ("--persistence keychain", "KeychainPersistence"),
    ("--persistence secret-service", "LibsecretPersistence"),
    ("'strongroom ", "the command 'strongroom "),
)


def exception(
    kind: str, code: str, message: str, remedy: Optional[str] = None, errno: Optional[int] = None
) -> Exception:
    """The exception for an error of the library, with its ``code`` and its ``remedy``."""
    remedy = in_python(remedy)
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
    remedy = in_python(remedy)
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


def in_python(remedy: Optional[str]) -> Optional[str]:
    """A remedy in the words of this package: options of the command line are of no use here."""
    if remedy is not None:
        for theirs, ours in _IN_PYTHON:
            remedy = remedy.replace(theirs, ours)
    return remedy


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
