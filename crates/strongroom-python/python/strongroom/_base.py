"""What the classes of this package have in common."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


class NotPicklable:
    """Holds tokens, keys or locks, which are not copied into files or other processes."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        name = type(self).__name__
        raise TypeError(f"a {name} cannot be pickled or copied: make one where it is needed")


def make_directory(path: str) -> None:
    """Makes a directory and those that lead to it, for their owner alone."""
    if not path or os.path.isdir(path):
        return
    make_directory(os.path.dirname(path))
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        # Another process was faster, or it is a file.
        if not os.path.isdir(path):
            raise
