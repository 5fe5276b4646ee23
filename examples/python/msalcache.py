"""Where the daemon keeps its tokens.

This is the function that everybody who uses msal-extensions copies from its README. One line is another: the import.
"""

from __future__ import annotations

import logging

import strongroom as msal_extensions


def build_persistence(location: str, fallback_to_plaintext: bool = False):
    """The encrypted persistence that this platform has; plain text only where that is asked for."""
    try:
        return msal_extensions.build_encrypted_persistence(location)
    except Exception:
        if not fallback_to_plaintext:
            raise
        logging.warning("Encryption unavailable. Opting in to plain text.")
        return msal_extensions.FilePersistence(location)
