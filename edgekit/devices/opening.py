"""From a target to its device; each transport is imported when a target of its kind is opened."""

from __future__ import annotations

from edgekit.devices._base import Device
from edgekit.types import Target


def open_device(target: Target) -> Device:
    """The device of ``target``; nothing is sent before the first question.

    Raises MissingExtraError for a transport that is not installed, UsageError for an address that is none.
    """
    if target.transport == "ssh":
        from edgekit.devices.ssh import open_ssh

        return open_ssh(target.name, target.address)
    if target.transport == "adb":
        from edgekit.devices.adb import open_adb

        return open_adb(target.name, target.address)
    from edgekit.devices.local import open_local

    return open_local(target.name)
