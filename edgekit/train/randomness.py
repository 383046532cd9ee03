"""All randomness of training, from (seed, stage, step): nothing to save, so a resumed run draws the same numbers.

No generator lives longer than one step or one epoch.
"""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, *place: str | int) -> torch.Generator:
    """A generator that depends on nothing but ``seed`` and the place it is used at, such as ("search", "step", 17)."""
    text = "/".join(map(str, (seed, *place)))
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
