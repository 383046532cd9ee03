"""Ctrl-C during training: the step in hand is finished and stored before the process ends.

Nothing is trained or stored here.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """Whether Ctrl-C was pressed. A second press ends the process where it stands."""

    def __init__(self) -> None:
        self.is_requested = False

    def request(self, _signal: int, _frame: FrameType | None) -> None:
        """The signal handler."""
        if self.is_requested:
            raise KeyboardInterrupt
        self.is_requested = True


@contextmanager
def deferred_interrupt() -> Iterator[Interruption]:
    """Ctrl-C sets a flag in place of ending the program within a step, where weights may be half updated.

    Only the main thread can handle signals: elsewhere nothing changes, nor where the signal is ignored (nohup).
    """
    interruption = Interruption()
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield interruption
        return
    before = signal.signal(signal.SIGINT, interruption.request)
    try:
        yield interruption
    finally:
        signal.signal(signal.SIGINT, before)
