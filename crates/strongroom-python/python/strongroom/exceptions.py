"""The exceptions of ``msal.exceptions`` that the client raises.

Where ``msal`` is imported, too, its own ``except`` clauses catch them.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Tuple, Type

__all__ = ["MsalError", "MsalServiceError"]


class MsalError(Exception):
    """What the client has no dictionary for."""

    msg = "An unspecified error"


class MsalServiceError(MsalError):
    """The identity provider failed: HTTP 5xx. What it said is in ``error`` and ``error_description``."""

    msg = "{error}: {error_description}"

    #: A stable word, in snake case.
    code: str
    #: What to do next, if there is something to do.
    remedy: str | None
    #: The seconds that the identity provider asks to be left alone, if it does.
    retry_after: int | None

    def __init__(self, *args: object, error: str = "", error_description: str = "") -> None:
        Exception.__init__(self, *args)
        self.error = self._error = error
        self.error_description = self._error_description = error_description

    def __reduce__(self) -> Tuple[Any, ...]:
        # The class may be one that was made here.
        return _again, (self.args, self.__dict__)


def service_error(text: str, error: str, error_description: str) -> MsalServiceError:
    """The exception, which is one of ``msal`` as well if a program has imported that."""
    return _class()(text, error=error, error_description=error_description)


def _class() -> Type[MsalServiceError]:
    theirs = getattr(sys.modules.get("msal.exceptions"), "MsalServiceError", None)
    if theirs is None:
        return MsalServiceError
    if theirs not in _classes:
        _classes[theirs] = type("MsalServiceError", (MsalServiceError, theirs), {"__module__": __name__})
    return _classes[theirs]


def _again(args: Tuple[object, ...], attributes: Dict[str, object]) -> MsalServiceError:
    error = _class()(*args)
    error.__dict__.update(attributes)
    return error


_classes: Dict[object, Type[MsalServiceError]] = {}
