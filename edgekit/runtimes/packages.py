"""How an optional third-party package is imported: at first use, with one sentence if it is not installed.

Nothing else lives here; which package a runtime needs is known to the runtime.
"""

from __future__ import annotations

import importlib
from typing import Any

from edgekit.errors import MissingExtraError


def require(module: str, package: str, extra: str) -> Any:
    """The imported ``module``; MissingExtraError names ``package`` and the ``extra`` that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A package that is there and lacks something of its own is broken, not missing.
        if error.name is None or not module.startswith(error.name):
            raise
        raise MissingExtraError(package, extra) from None
