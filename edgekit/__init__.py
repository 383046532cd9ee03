"""edgekit: networks that fit a latency budget on a measured device."""

from __future__ import annotations

__version__ = "0.1.0"
