"""edgekit: networks that fit a latency budget on a measured device.

The functions named in ``__all__`` are loaded from `edgekit.api` when they are first used; importing edgekit loads
neither torch nor numpy, and nothing is defined here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.api import (
        AttachedGates,
        attach,
        export_model,
        measure,
        predict,
        profile_model,
        read_profile,
        shrink,
    )

__version__ = "0.1.0"

# Not "profile" and "export": importing the subpackages of these names would overwrite the functions.
__all__ = [
    "AttachedGates",
    "__version__",
    "attach",
    "export_model",
    "measure",
    "predict",
    "profile_model",
    "read_profile",
    "shrink",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# A type checker would take any name for right that this function might know.
if not TYPE_CHECKING:

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            api = importlib.import_module("edgekit.api")
        except ModuleNotFoundError as error:
            from edgekit.errors import MissingExtraError

            raise MissingExtraError(error.name, "train") from error
        return getattr(api, name)
