"""Every error that edgekit raises on purpose, and the exit code that each one ends the command with.

    EdgekitError                    1  the work failed
    +-- UsageError                  2  the command line, or a value given to the API, is wrong
    |   `-- MissingExtraError       2  an optional dependency is not installed
    +-- BadInputError               3  a file, a data set or a model is not what it must be
    |   +-- DataError               3  ... a data set
    |   `-- UnsupportedModelError   3  ... a network that cannot be traced, cut, or written
    +-- DeviceError                 4  a device or the link to it
    |   `-- LinkLostError           4  ... the link was cut; what runs there goes on
    +-- TrustError                  5  a host key or a hash that does not match
    +-- BudgetError                 1  no network within the latency budget exists
    +-- TrainingDivergedError       1  the loss became NaN or infinite
    `-- ExportMismatchError         1  an exported file does not compute what the network computes

Nothing else lives here. A message says what, which value and what is allowed; a hint says what to do.
"""

from __future__ import annotations


class EdgekitError(Exception):
    """Base of all errors raised on purpose: ``message`` is one sentence, ``hint`` says what to do."""

    code = "failed"
    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(EdgekitError):
    """The command line, or a value given to the Python API, is wrong."""

    code = "usage"
    exit_code = 2


class MissingExtraError(UsageError):
    """An optional dependency is needed and not installed."""

    code = "missing_extra"

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package {package!r}, which is not installed",
            f"pip install 'edgekit[{extra}]'",
        )


class BadInputError(EdgekitError):
    """A file that edgekit was given is not what it must be."""

    code = "bad_input"
    exit_code = 3


class DataError(BadInputError):
    """A data set is unreadable, empty or inconsistent."""

    code = "bad_data"


class UnsupportedModelError(BadInputError):
    """A network holds an operator that edgekit cannot trace, cut or write."""

    code = "unsupported_model"


class DeviceError(EdgekitError):
    """A device, or the link to it, failed."""

    code = "device"
    exit_code = 4


class LinkLostError(DeviceError):
    """The link to the device was cut or is silent; what was started there goes on and can be picked up again."""

    code = "link_lost"


class TrustError(EdgekitError):
    """A host key or a hash does not match what was trusted."""

    code = "trust"
    exit_code = 5


class BudgetError(EdgekitError):
    """No network within the latency budget can be made; ``smallest_us`` is the smallest reachable latency."""

    code = "budget"

    def __init__(self, message: str, smallest_us: float, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.smallest_us = smallest_us


class TrainingDivergedError(EdgekitError):
    """The loss became NaN or infinite; the last good checkpoint is kept."""

    code = "diverged"


class ExportMismatchError(EdgekitError):
    """An exported file ran in its runtime and did not agree with the network that it was made from."""

    code = "export_mismatch"
