"""The version of the package."""

from __future__ import annotations

from ._strongroom import version as _version

__version__: str = _version
