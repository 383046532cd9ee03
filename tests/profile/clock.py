"""A clock that only models move: timing becomes exact arithmetic, so tests may claim exact times."""

from __future__ import annotations

from collections.abc import Callable

from edgekit.runtimes import FloatArray, Session


class Clock:
    """Nanoseconds that pass when a `FakeSession` is invoked."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


class FakeSession(Session):
    """A model whose n-th run takes ``duration_ns(n)``; ``log`` notes every run of any session that shares it."""

    def __init__(
        self,
        clock: Clock,
        duration_ns: Callable[[int], int],
        name: str = "",
        log: list[str] | None = None,
        input_shape: tuple[int, ...] = (1, 4),
    ) -> None:
        self.input_shape = input_shape
        self._clock = clock
        self._duration_ns = duration_ns
        self._name = name
        self._log = [] if log is None else log
        self.run_count = 0
        self.is_prepared = False

    def run(self, batch: FloatArray) -> FloatArray:
        return batch

    def prepare(self, sample: FloatArray) -> None:
        assert sample.shape == self.input_shape
        self.is_prepared = True

    def invoke(self) -> None:
        assert self.is_prepared
        self._clock.now_ns += self._duration_ns(self.run_count)
        self._log.append(self._name)
        self.run_count += 1

    def kernels(self) -> tuple[str, ...]:
        return ()
