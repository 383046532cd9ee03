"""From a target to the stopwatch that times its models: in this process, or over a link by a worker on the device.

Transports are imported when a target of theirs is reached.
"""

from __future__ import annotations

import msgspec

from edgekit.errors import UsageError
from edgekit.profile.stopwatch import LocalStopwatch, Stopwatch, check_runtime
from edgekit.runtimes import get
from edgekit.types import RuntimeName, Target

PROVIDERS = ("cpu", "nnapi")
"""What a runtime can hand its nodes to; where that is not the CPU, nodes that are refused stay on the CPU."""


def open_stopwatch(
    target: Target, runtime: RuntimeName, threads: int | None = None, provider: str | None = None
) -> Stopwatch:
    """A stopwatch for ``runtime`` on ``target``, with the target's number of threads and its provider where none is
    given; close it, or use it as a context.

    Raises UsageError for a runtime that the target does not have and a provider that it cannot have, MissingExtraError
    for a transport that is not installed, DeviceError when the device cannot be reached, TrustError for a host key that
    is unknown or changed.
    """
    check_runtime(target, runtime)
    options = target.runtimes[runtime]
    if threads is not None:
        options = msgspec.structs.replace(options, threads=threads)
    if provider is not None:
        options = msgspec.structs.replace(options, provider=provider)
    check_provider(target, options.provider)
    if target.transport == "local":
        return LocalStopwatch(get(runtime), options.threads)
    from edgekit.devices.opening import open_device
    from edgekit.profile.remote import DeviceStopwatch

    return DeviceStopwatch(open_device(target), get(runtime), options, storage_bytes=target.storage_bytes)


def with_provider(target: Target, provider: str | None) -> Target:
    """The target with ``provider`` in all its runtimes; as it is where that is None.

    Raises UsageError for a provider that it cannot have.
    """
    if provider is None:
        return target
    check_provider(target, provider)
    runtimes = {name: msgspec.structs.replace(options, provider=provider) for name, options in target.runtimes.items()}
    return msgspec.structs.replace(target, runtimes=runtimes)


def check_provider(target: Target, provider: str) -> None:
    """Raise UsageError for a provider that is not known, or that this machine, where it is the target, never has."""
    if provider not in PROVIDERS:
        raise UsageError(f"there is no provider {provider!r}", f"use one of: {', '.join(PROVIDERS)}")
    if target.transport == "local" and provider != "cpu":
        raise UsageError(
            f"target {target.name!r} is this machine, where models run on the CPU, not on {provider}",
            "use the provider cpu, or the target of a phone",
        )
