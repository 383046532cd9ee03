"""Runs an exported model over image files: read, preprocess, run, label, write.

`classify` yields one outcome per image in the order of the inputs; the writers put outcomes into a text stream.
"""

from __future__ import annotations

from edgekit.run.model import OpenModel, open_model
from edgekit.run.outcomes import Classified, Failed, Outcome, Score, Summary
from edgekit.run.runner import Classification, classify
from edgekit.run.writers import write_csv, write_json_lines

__all__ = [
    "Classification",
    "Classified",
    "Failed",
    "OpenModel",
    "Outcome",
    "Score",
    "Summary",
    "classify",
    "open_model",
    "write_csv",
    "write_json_lines",
]
