"""The data protection of Windows by itself: the names of ``msal_extensions.windows``. Elsewhere importing this fails."""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Optional

if sys.platform != "win32":
    raise AttributeError("there is no data protection on this platform")

import ctypes
from ctypes import wintypes

from . import _strongroom
from ._base import NotPicklable


class DataBlob(ctypes.Structure):
    """The structure of that name of Windows."""

    _fields_ = [("cbData", wintypes.DWORD), ("pbData", ctypes.POINTER(ctypes.c_char))]

    def raw(self) -> bytes:
        """A copy of the bytes that it points to."""
        return ctypes.string_at(self.pbData, self.cbData)


class WindowsDataProtectionAgent(NotPicklable):
    """Encrypts and decrypts texts for the current user (DPAPI).

    :param entropy: without it nobody can decrypt, other programs of this user included.
    """

    def __init__(self, entropy: Optional[str] = None) -> None:
        self._entropy = entropy or ""

    def protect(self, message: str) -> bytes:
        """Encrypts a text."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "blob")
            _strongroom.Persistence.data_protection(path, self._entropy).save(message)
            with open(path, "rb") as blob:
                return blob.read()

    def unprotect(self, cipher_text: bytes) -> str:
        """Decrypts what :meth:`protect` made."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "blob")
            with open(path, "wb") as blob:
                blob.write(cipher_text)
            return _strongroom.Persistence.data_protection(path, self._entropy).load() or ""
