"""Where a cache is kept: a plain file, a sealed file, a keyring.

The names of ``msal_extensions.persistence``, and ``SealedFilePersistence``.
"""

from __future__ import annotations

import abc
import errno
import os
import sys

from . import _strongroom
from ._base import NotPicklable, make_directory as _mkdir_p

TYPE_CHECKING = False  # Importing `typing` takes longer than all the rest of this package.
if TYPE_CHECKING:
    from typing import Any, Mapping, Optional, Union

__all__ = [
    "BasePersistence",
    "FilePersistence",
    "FilePersistenceWithDataProtection",
    "KeychainPersistence",
    "LibsecretPersistence",
    "PersistenceDecryptionError",
    "PersistenceEncryptionError",
    "PersistenceError",
    "PersistenceNotFound",
    "SealedFilePersistence",
    "build_encrypted_persistence",
]

class PersistenceError(OSError):
    """What goes wrong where a cache is kept.

    The arguments become ``errno``, ``strerror`` and ``filename``.
    """

    def __init__(
        self,
        err_no: Optional[int] = None,
        message: Optional[str] = None,
        location: Optional[str] = None,
    ) -> None:
        super().__init__(err_no, message, location)

    def __str__(self) -> str:
        # An error of the library, which has a code, mostly is none of the system, and has no number.
        text: Optional[str] = self.strerror
        if self.errno is not None or text is None or not hasattr(self, "code"):
            return super().__str__()
        return text if self.filename is None or str(self.filename) in text else f"{text}: {self.filename!r}"


class PersistenceNotFound(PersistenceError):
    """Nothing has been saved there yet. ``errno`` is always ``ENOENT``."""

    def __init__(
        self,
        err_no: Optional[int] = None,
        message: Optional[str] = None,
        location: Optional[str] = None,
    ) -> None:
        super().__init__(errno.ENOENT, message or "Persistence not found", location)


class PersistenceEncryptionError(PersistenceError):
    """It could not be encrypted: no key is to be had."""


class PersistenceDecryptionError(PersistenceError):
    """It could not be decrypted: another key, other content, or damage. It was left as it is."""


def build_encrypted_persistence(location: Union[str, os.PathLike[str]]) -> BasePersistence:
    """The persistence that encrypts a cache best on this machine.

    What is at ``location`` decides first: a sealed file is opened as one, and a plain cache is an exception, and left
    alone. Otherwise it is the platform's store: DPAPI on Windows, the Keychain on macOS, the Secret Service on Linux; and
    a sealed file where there is none. Once something has been saved in a sealed file, it stays one.

    :raises PersistenceDecryptionError: a plain cache is there, or a sealed one whose key is not to be had.
    :raises PersistenceEncryptionError: no key can be made or found for a new one.
    """
    if not location:
        raise ValueError("Requires a file path")
    found = _found_at(os.path.expanduser(location))
    if found == "sealed" or found == "plain":
        return SealedFilePersistence(location)  # Which refuses what is plain.
    if sys.platform == "win32":
        return FilePersistenceWithDataProtection(location)
    if found == "other":
        return SealedFilePersistence(location)  # Which says what is wrong.
    try:
        if sys.platform == "darwin":
            return KeychainPersistence(location)
        return LibsecretPersistence(location)
    except Exception as error:  # Whatever is missing, a sealed file does without.
        import logging

        logging.getLogger(__name__).debug("%s gets a sealed file: %s", location, error)
    return SealedFilePersistence(location)


class BasePersistence(abc.ABC):
    """Where a cache is kept. Subclasses of your own work too, by these four methods."""

    is_encrypted = False

    @abc.abstractmethod
    def save(self, content: str) -> None:
        """Replaces what is kept, whatever it is. Takes no lock."""
        raise NotImplementedError

    @abc.abstractmethod
    def load(self) -> str:
        """Returns what is kept.

        :raises PersistenceNotFound: nothing has been saved yet.
        """
        raise NotImplementedError

    @abc.abstractmethod
    def time_last_modified(self) -> float:
        """When it was last changed, in Unix seconds.

        :raises PersistenceNotFound: nothing has been saved yet.
        """
        raise NotImplementedError

    @abc.abstractmethod
    def get_location(self) -> str:
        """The path of the file, or of the file that is touched when a keyring's item has changed."""
        raise NotImplementedError


class _NativePersistence(NotPicklable, BasePersistence):
    """One that the native half of this package keeps."""

    _native: _strongroom.Persistence
    _location: str
    _not_found = "Persistence not initialized. You can recover by calling a save() first."

    def save(self, content: str) -> None:
        """Replaces what is kept, whatever it is. Takes no lock."""
        try:
            self._native.save(content)
        except OSError as error:
            self._locate(error)
            raise

    def load(self) -> str:
        """Returns what is kept.

        :raises PersistenceNotFound: nothing has been saved yet.
        """
        try:
            content = self._native.load()
        except OSError as error:
            self._locate(error)
            raise
        if content is None:
            raise self._absent()
        return content

    def time_last_modified(self) -> float:
        """When it was last changed, in Unix seconds.

        :raises PersistenceNotFound: nothing has been saved yet.
        """
        try:
            return os.path.getmtime(self._location)
        except FileNotFoundError:
            raise PersistenceNotFound(message=self._not_found, location=self._location) from None

    def get_location(self) -> str:
        """The path of the file, or of the file that is touched when a keyring's item has changed."""
        return self._location

    @property
    def protection(self) -> str:
        """How well it is protected at rest: ``none``, ``host-file``, ``provided-key`` or ``os-store``."""
        return self._native.protection

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._location!r})"

    def _locate(self, error: OSError) -> None:
        if error.filename is None:
            error.filename = self._location

    def _absent(self) -> PersistenceNotFound:
        return PersistenceNotFound(message=self._not_found, location=self._location)


class FilePersistence(_NativePersistence):
    """A plain file, which its owner alone may read. It is replaced in one step, never half written.

    The directory is made if need be; ``~`` is the home directory.
    """

    def __init__(self, location: Union[str, os.PathLike[str]]) -> None:
        self._location = _expanded(location)
        _mkdir_p(os.path.dirname(self._location))
        self._native = self._made()

    def touch(self) -> None:
        """Sets the time of the last change to now, and makes the file if there is none."""
        descriptor = os.open(self._location, os.O_WRONLY | os.O_CREAT, 0o600)
        os.close(descriptor)
        os.utime(self._location)

    def _made(self) -> _strongroom.Persistence:
        return _strongroom.Persistence.file(self._location)


class SealedFilePersistence(_NativePersistence):
    """A file sealed with AES-256-GCM. It needs no set-up, and works on servers.

    A file that is there is opened with the key that sealed it. A new one is sealed with the first key that is there: the
    systemd credential ``strongroom.key``, ``STRONGROOM_KEY_FILE``, ``STRONGROOM_KEY``, else a key of this host, which is
    made at first use. :attr:`reasons` tells which, and why.

    :raises PersistenceDecryptionError: a plain cache is there, or the key is not to be had. It is left as it is.
    :raises PersistenceEncryptionError: no key can be made or found.
    """

    is_encrypted = True

    def __init__(self, location: Union[str, os.PathLike[str]]) -> None:
        self._location = _expanded(location)
        try:
            self._native = _strongroom.Persistence.sealed(self._location)
        except OSError as error:
            self._locate(error)
            raise
        _mkdir_p(os.path.dirname(self._location))

    @property
    def reasons(self) -> list[str]:
        """What was looked at when the key was chosen, and what it came to."""
        return self._native.reasons


class FilePersistenceWithDataProtection(FilePersistence):
    """A file that Windows encrypts for its user (DPAPI), byte for byte that of ``msal_extensions``.

    :param entropy: without it nobody can decrypt, other programs of this user included.
    :raises RuntimeError: this is not Windows.
    """

    is_encrypted = True
    _entropy: str

    def __init__(self, location: Union[str, os.PathLike[str]], entropy: str = "") -> None:
        if sys.platform != "win32":
            raise RuntimeError("FilePersistenceWithDataProtection needs Windows; elsewhere use SealedFilePersistence")
        self._entropy = entropy
        super().__init__(location)

    def _made(self) -> _strongroom.Persistence:
        return _strongroom.Persistence.data_protection(self._location, self._entropy)


class KeychainPersistence(_NativePersistence):
    """An item of the default keychain of macOS, that of ``msal_extensions``.

    :param signal_location: a file that is touched whenever the item changes. Its path as it is given here names the item
        if ``account_name`` does not.
    :param service_name: ``msal-extensions`` by default.
    :raises OSError: this is not macOS.
    """

    is_encrypted = True
    _service_name: str
    _account_name: str
    _not_found = "Keychain persistence not initialized. You can recover by call a save() first."

    def __init__(
        self,
        signal_location: Union[str, os.PathLike[str]],
        service_name: Optional[str] = None,
        account_name: Optional[str] = None,
    ) -> None:
        if sys.platform != "darwin":
            raise OSError("KeychainPersistence needs macOS; elsewhere use SealedFilePersistence")
        self._location = _expanded(signal_location)
        _mkdir_p(os.path.dirname(self._location))
        self._service_name = service_name or "msal-extensions"
        self._account_name = account_name or _auto_hash(os.fspath(signal_location))
        self._native = _strongroom.Persistence.keychain(self._location, self._service_name, self._account_name)

    def _absent(self) -> PersistenceNotFound:
        item = f"Service:{self._service_name} Account:{self._account_name}"
        return PersistenceNotFound(message=self._not_found, location=item)


class LibsecretPersistence(_NativePersistence):
    """An item of the Secret Service (GNOME Keyring, KWallet, KeePassXC), that of ``msal_extensions``.

    Neither PyGObject nor libsecret is needed. The service is tried out here, for 2 seconds at most each time that it is
    asked something.

    :param signal_location: a file that is touched whenever the item changes. Its path as it is given here names the item
        if ``schema_name`` does not.
    :param attributes: what the item is found by, besides the schema's name.
    :param kwargs: ``label``, ``collection``, and ``attribute_types``, which makes no difference.
    :raises RuntimeError: there is no Secret Service, or it does not work.
    """

    is_encrypted = True
    _not_found = "Keyring persistence not initialized. You can recover by call a save() first."

    def __init__(
        self,
        signal_location: Union[str, os.PathLike[str]],
        schema_name: Optional[str] = None,
        attributes: Optional[Mapping[str, str]] = None,
        **kwargs: Any,
    ) -> None:
        from . import libsecret

        libsecret.trial_run()
        agent = libsecret.LibSecretAgent(schema_name or _auto_hash(os.fspath(signal_location)), attributes or {}, **kwargs)
        self._location = _expanded(signal_location)
        self._native = agent._native(self._location)  # pyright: ignore[reportPrivateUsage]
        _mkdir_p(os.path.dirname(self._location))

    def _absent(self) -> PersistenceNotFound:
        return PersistenceNotFound(message=self._not_found)


def _expanded(location: Union[str, os.PathLike[str]]) -> str:
    if not location:
        raise ValueError("Requires a file path")
    return os.path.expanduser(location)


def _auto_hash(input_string: str) -> str:
    import hashlib

    return hashlib.sha256(input_string.encode("utf-8")).hexdigest()


def _found_at(location: str) -> str:
    """What is there: nothing (or what says nothing: an empty file, an empty object), sealed, plain, other."""
    try:
        with open(location, "rb") as file:
            start = file.read(64)
    except FileNotFoundError:
        return "nothing"
    except OSError:
        return "other"
    if len(start) < 64 and b"".join(start.split()) in (b"", b"{}"):
        return "nothing"
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return "plain"
    return "sealed" if _strongroom.is_sealed(location) else "other"
