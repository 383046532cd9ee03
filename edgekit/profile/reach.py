"""From a target to the stopwatch that times its models: in this process, or over a link by a worker on the device.

Transports are imported when a target of theirs is reached.
"""

from __future__ import annotations

import msgspec

from edgekit.profile.stopwatch import LocalStopwatch, Stopwatch, check_runtime
from edgekit.runtimes import get
from edgekit.types import RuntimeName, Target


def open_stopwatch(target: Target, runtime: RuntimeName, threads: int | None = None) -> Stopwatch:
    """A stopwatch for ``runtime`` on ``target``, with the target's number of threads if none is given; close it, or use
    it as a context.

    Raises UsageError for a runtime that the target does not have, MissingExtraError for a transport that is not
    installed, DeviceError when the device cannot be reached, TrustError for a host key that is unknown or changed.
    """
    check_runtime(target, runtime)
    options = target.runtimes[runtime]
    if threads is not None:
        options = msgspec.structs.replace(options, threads=threads)
    if target.transport == "local":
        return LocalStopwatch(get(runtime), options.threads)
    from edgekit.devices.opening import open_device
    from edgekit.profile.remote import DeviceStopwatch

    return DeviceStopwatch(open_device(target), get(runtime), options)
