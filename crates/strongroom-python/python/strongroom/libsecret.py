"""Items of the Secret Service by themselves: the names of ``msal_extensions.libsecret``.

Neither PyGObject nor libsecret is needed. Where there is no Secret Service at all (Windows, macOS), importing this fails.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from typing import Any, Mapping, Optional

from . import _strongroom
from ._base import NotPicklable
from .persistence import PersistenceError

if not hasattr(_strongroom.Persistence, "secret_service"):
    raise ImportError("there is no Secret Service on this platform")

#: Seconds that one call may take in all, connecting and unlocking included.
DEADLINE = 2.0


class LibSecretAgent(NotPicklable):
    """Keeps a text as one item of the Secret Service.

    :param schema_name: names the item, together with the attributes.
    :param attributes: what the item is found by. They are not encrypted.
    :param label: what a keyring manager calls the item. It is not encrypted.
    :param attribute_types: makes no difference: attributes are texts.
    :param collection: the keyring that a new item is made in; the default one by default.
    """

    def __init__(
        self,
        schema_name: str,
        attributes: Mapping[str, str],
        label: str = "",
        attribute_types: Optional[Mapping[str, Any]] = None,
        collection: Optional[str] = None,
    ) -> None:
        self._schema_name = schema_name
        self._attributes = {str(name): str(value) for name, value in (attributes or {}).items()}
        self._label = label
        self._collection = collection

    def save(self, data: str) -> bool:
        """Stores ``data``, and returns ``True``."""
        with tempfile.TemporaryDirectory() as folder:
            self._native(os.path.join(folder, "signal")).save(data)
        return True

    def load(self) -> Optional[str]:
        """Returns what is stored, or ``None``."""
        with tempfile.TemporaryDirectory() as folder:
            return self._native(os.path.join(folder, "signal")).load()

    def clear(self) -> bool:
        """Removes the item. Returns whether there was one."""
        with tempfile.TemporaryDirectory() as folder:
            native = self._native(os.path.join(folder, "signal"))
            was_there = native.load() is not None
            native.remove()
        return was_there

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._schema_name!r})"

    def _native(self, signal_location: str) -> _strongroom.Persistence:
        """The item, with a signal file, which an agent alone has no use for."""
        return _strongroom.Persistence.secret_service(
            signal_location, self._schema_name, self._attributes, self._label, self._collection, DEADLINE
        )


def trial_run() -> None:
    """Stores, reads and removes an item, of this call alone, to see whether the Secret Service works.

    :raises RuntimeError: it does not, or there is none.
    """
    agent = LibSecretAgent("Test Schema", {"attr1": "foo", "attr2": uuid.uuid4().hex})
    payload = "Test Data"
    try:
        agent.save(payload)
        found = agent.load()
        agent.clear()
    except (OSError, PersistenceError) as error:
        raise RuntimeError(
            f"libsecret did not perform properly: {error}\n"
            "* You may need to install and start a Secret Service, gnome-keyring for example.\n"
            "* In a headless session (ssh, cron) there is none: SealedFilePersistence needs none."
        ) from error
    if found != payload:
        raise RuntimeError("libsecret did not perform properly: what was stored was not found")
