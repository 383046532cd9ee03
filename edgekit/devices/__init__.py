"""How a device is reached, and the program that runs on it.

Importing this imports no transport; the package that a transport needs is imported when a device is opened.
"""

from __future__ import annotations

from edgekit.devices._base import (
    DEADLINE_SECONDS,
    Completed,
    Device,
    DeviceFacts,
    Job,
    JobStatus,
    Link,
)

__all__ = [
    "DEADLINE_SECONDS",
    "Completed",
    "Device",
    "DeviceFacts",
    "Job",
    "JobStatus",
    "Link",
]
