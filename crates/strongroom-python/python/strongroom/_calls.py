"""Calls of what a program has handed in, on threads of Python's own."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Optional, Tuple


def run(
    function: Callable[..., Any],
    arguments: Tuple[Any, ...],
    done: Callable[[Any, Optional[BaseException]], None],
) -> None:
    """Says what a call has come to. Whatever it raises is for whoever asked for it."""
    try:
        result = function(*arguments)
    except BaseException as error:
        done(None, error)
    else:
        done(result, None)
