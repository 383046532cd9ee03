"""A user's ``torch.nn.Module`` as a `NetworkSpec`: exported, read operator by operator, merged into the units that run.

Parameters stay in the user's own modules; nothing is trained, timed or written here.
"""

from edgekit.nn.trace._factory import load_factory
from edgekit.nn.trace._trace import Traced, trace

__all__ = ["Traced", "load_factory", "trace"]
