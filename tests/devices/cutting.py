"""Links that are lost in a chosen exchange, and a job that has to get through all the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal

import pytest

from edgekit.devices import Completed, Device, Job, Link
from edgekit.errors import DeviceError, LinkLostError

MOST_LOSSES = 8
CONTENT = bytes(range(256)) * 4096
KEEP_RUNNING = 'cat input >copy; echo $$; sleep 60; echo "never seen"'
"""What the job of `survive_cuts` does, as the last argument of its argv: tells its process number, then waits."""

Moment = Literal["before", "middle", "after"]


class CuttingLink(Link):
    """Loses the exchange number ``lose_at``, counted from 0: before the device got it, when it had half of its stdin
    and a few milliseconds, or when only the answer is missing."""

    def __init__(self, link: Link, lose_at: int, moment: Moment, middle_seconds: float = 0.005) -> None:
        self._link = link
        self._lose_at = lose_at
        self._moment = moment
        self._middle_seconds = middle_seconds
        self.exchanges = 0

    def execute(self, argv: Sequence[str], stdin: bytes, deadline_seconds: float) -> Completed:
        number = self.exchanges
        self.exchanges += 1
        if number != self._lose_at:
            return self._link.execute(argv, stdin, deadline_seconds)
        if self._moment == "middle":
            self._link.execute(argv, stdin[: len(stdin) // 2], self._middle_seconds)
        if self._moment == "after":
            self._link.execute(argv, stdin, deadline_seconds)
        raise LinkLostError("cut by the test")

    def close(self) -> None:
        self._link.close()


def survive_cuts(
    device: Device,
    cut: Callable[[str], None],
    alive: Callable[[int], bool],
    content: bytes = CONTENT,
    job_name: str = "survivor",
) -> int:
    """Push a file, start a job, read its output, fetch its file and cancel it, repeating what a lost link left open.

    Before each step ``cut`` is called with its name (push, start, poll, fetch, cancel) and may see to it that the link
    is lost in that step, or do nothing. Fails when something is left half done; returns how often the link was lost.
    """
    losses = 0
    output = bytearray()

    def insist(action: Callable[[], object]) -> None:
        nonlocal losses
        for _ in range(MOST_LOSSES):
            try:
                action()
            except LinkLostError:
                losses += 1
            else:
                return
        pytest.fail(f"the link was lost {MOST_LOSSES} times")

    def push() -> None:
        try:
            device.push("content", content)
        except LinkLostError:
            _assert_whole_or_absent(device, content)
            raise

    def poll() -> None:
        deadline = time.monotonic() + 30
        while not output.endswith(b"\n"):
            assert time.monotonic() < deadline, "the job wrote nothing"
            output.extend(device.poll(job_name, len(output)).output)

    def fetch_pushed() -> None:
        assert device.fetch("content") == content

    def fetch() -> None:
        assert device.fetch(f"{job_name}/copy") == content

    def jobs() -> None:
        assert job_name not in device.jobs()

    cut("push")
    insist(push)
    insist(fetch_pushed)
    cut("start")
    insist(lambda: device.start(job_name, Job(("sh", "-c", KEEP_RUNNING), {"input": "content"}, {})))
    cut("poll")
    insist(poll)
    process = int(output)
    assert alive(process)
    cut("fetch")
    insist(fetch)
    cut("cancel")
    insist(lambda: device.cancel(job_name))
    assert not alive(process)
    insist(jobs)
    return losses


def _assert_whole_or_absent(device: Device, content: bytes) -> None:
    try:
        found = device.fetch("content")
    except LinkLostError:
        return
    except DeviceError:
        return
    assert found == content
