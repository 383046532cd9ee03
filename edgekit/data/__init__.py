"""Labelled images for training and evaluation: `load` reads a source, `Dataset` holds it, split and measured.

Nothing here trains, augments or imports torch; one reader per format, all behind `edgekit.data._base.Reader`.
"""

from __future__ import annotations

from edgekit.data._base import Skipped, printable
from edgekit.data.dataset import Dataset
from edgekit.data.loading import load
from edgekit.data.names import known_names

__all__ = ["Dataset", "Skipped", "known_names", "load", "printable"]
