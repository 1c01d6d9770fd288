"""Something is done after each promotion, by whatever process it was made."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from sam_lora.registry import Registry

logger = logging.getLogger(__name__)


class Watch:
    """Looks at a registry from time to time, in a thread of its own, until the process ends.

    Args:
        registry: whose champion may change.
        then: is called with the new champion's name, "none" for the base; where it says False it is called again at the
            next look.
        seconds: between two looks.
    """

    def __init__(self, registry: Registry, then: Callable[[str], bool], seconds: float = 5.0) -> None:
        self.registry, self.then, self.seconds = registry, then, seconds
        self._ended = threading.Event()
        self._last = registry.champion()

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._work, name="watch", daemon=True).start()

    def stop(self) -> None:
        """End after the current look."""
        self._ended.set()

    def look(self) -> None:
        """Look once."""
        champion = self.registry.champion()
        if champion != self._last and self.then(champion):
            self._last = champion

    def _work(self) -> None:
        while not self._ended.wait(self.seconds):
            try:
                self.look()
            except Exception:  # the next request says so too; the next look may find it mended
                logger.exception("what follows a promotion has to wait")
