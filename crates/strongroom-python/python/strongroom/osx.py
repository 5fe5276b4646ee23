"""Items of the macOS keychain by themselves: the names of ``msal_extensions.osx``. Elsewhere importing this fails."""

from __future__ import annotations

import os
import sys
import tempfile
from types import TracebackType
from typing import Optional, Type

if sys.platform != "darwin":
    raise OSError("there is no keychain on this platform")

from . import _strongroom
from ._base import NotPicklable


class KeychainError(OSError):
    """What the keychain answered, as ``exit_status``."""

    ACCESS_DENIED = -128
    NO_SUCH_KEYCHAIN = -25294
    NO_DEFAULT = -25307
    ITEM_NOT_FOUND = -25300

    def __init__(self, exit_status: int) -> None:
        super().__init__()
        self.exit_status = exit_status
        self.message = f"the keychain answered {exit_status}"

    def __str__(self) -> str:
        return self.message


class Keychain(NotPicklable):
    """The default keychain, in a ``with`` statement."""

    def __init__(self, filename: Optional[str] = None) -> None:
        if filename:
            raise OSError("strongroom uses the default keychain only")

    def __enter__(self) -> Keychain:
        return self

    def __exit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc_value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        pass

    def get_generic_password(self, service: str, account_name: str) -> str:
        """The password of an item.

        :raises KeychainError: there is none (``ITEM_NOT_FOUND``).
        """
        with tempfile.TemporaryDirectory() as folder:
            password = _item(folder, service, account_name).load()
        if password is None:
            raise KeychainError(KeychainError.ITEM_NOT_FOUND)
        return password

    def set_generic_password(self, service: str, account_name: str, value: str) -> None:
        """Changes the password of an item, or makes one."""
        with tempfile.TemporaryDirectory() as folder:
            _item(folder, service, account_name).save(value)

    def get_internet_password(self, service: str, username: str) -> str:
        """Not implemented, as in ``msal_extensions``."""
        raise NotImplementedError

    def set_internet_password(self, service: str, username: str, value: str) -> None:
        """Not implemented, as in ``msal_extensions``."""
        raise NotImplementedError


def _item(folder: str, service: str, account_name: str) -> _strongroom.Persistence:
    """The item, with a signal file, which a password alone has no use for."""
    return _strongroom.Persistence.keychain(os.path.join(folder, "signal"), service, account_name)
