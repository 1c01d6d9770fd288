"""What took how long, part by part."""

from __future__ import annotations

import time


class Clock:
    """Seconds between marks.

    Attributes:
        seconds: by the name of the mark that ended them.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def mark(self, name: str) -> None:
        """End a part, and begin the next one."""
        now = time.perf_counter()
        self.seconds[name], self._since = now - self._since, now
