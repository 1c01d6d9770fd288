"""One device, one computation at a time: requests in their order, background work only while nobody waits."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class BusyError(RuntimeError):
    """The device did not become free in time."""


class Device:
    """A lock with two queues. Who holds it for long gives way between two slices, see :meth:`give_way`.

    Nobody may wait for the device while others wait for something that only this thread can finish: take it before
    the caches are asked.

    Args:
        name: what torch calls it, like "cpu" or "cuda:0".
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._condition = threading.Condition()
        self._requests: deque[object] = deque()
        self._background: deque[object] = deque()
        self._busy = False

    @contextmanager
    def hold(self, background: bool = False, timeout: float | None = None) -> Iterator[None]:
        """Wait for the device, and have it for a block.

        Args:
            background: wait until no request does.
            timeout: seconds to wait at most; None: as long as it takes.

        Raises:
            BusyError: if the time is over.
        """
        self._take(background, timeout)
        try:
            yield
        finally:
            self._release()

    def give_way(self) -> None:
        """Let requests that wait go first; only for a request that holds the device, which it has again afterwards."""
        with self._condition:
            if not self._requests:
                return
        self._release()
        self._take(False, None)

    def _take(self, background: bool, timeout: float | None) -> None:
        ticket, queue = object(), self._background if background else self._requests
        with self._condition:
            queue.append(ticket)
            if not self._condition.wait_for(lambda: self._is_next(ticket), timeout):
                queue.remove(ticket)
                raise BusyError(f"The device {self.name} was busy for {timeout:g} seconds: try again in a while.")
            queue.popleft()
            self._busy = True

    def _is_next(self, ticket: object) -> bool:
        first = self._requests or self._background
        return not self._busy and first[0] is ticket

    def _release(self) -> None:
        with self._condition:
            self._busy = False
            self._condition.notify_all()
