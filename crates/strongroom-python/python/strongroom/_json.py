"""JSON that the native half does not take."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Union


def loads(text: str) -> Any:
    """As :func:`json.loads`, but a number that is too long for Python stays a text."""
    return json.loads(text, parse_int=_number)


def _number(digits: str) -> Union[int, str]:
    try:
        return int(digits)
    except ValueError:  # Longer than sys.get_int_max_str_digits().
        return digits
