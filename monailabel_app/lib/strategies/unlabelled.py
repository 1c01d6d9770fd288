"""Which image to label next."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from monailabel_app.lib.scoring.seen import SeenFile
from sam_lora.selection import Seen, by_both, by_diversity, by_uncertainty

RESERVED = 30 * 60.0  # seconds for which an image that was given to somebody is given to nobody else


class Reservations:
    """Who was given which image: two users who ask at the same time get different ones.

    Args:
        seconds: after which a reservation ends.
        now: the clock.
    """

    def __init__(self, seconds: float = RESERVED, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._now = seconds, now
        self._held: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def take(self, order: Sequence[str], client: str) -> str | None:
        """Reserve the first image that nobody else holds; a client gives back what it held before.

        Args:
            order: ids of images, the best first.
            client: who asks.

        Returns:
            Its id; where all are held, the first of all; None where there is none.
        """
        with self._lock:
            until = self._now() + self._seconds
            self._held = {
                image: (owner, end)
                for image, (owner, end) in self._held.items()
                if end > self._now() and (owner != client or not client)  # who has no name may be anybody
            }
            free = [image for image in order if image not in self._held] or list(order)
            if not free:
                return None
            self._held[free[0]] = (client, until)
            return free[0]


class Unlabelled(Strategy):
    """Images that nobody has labelled, in the order that a rule gives them.

    Args:
        description: what clients show.
        order: takes the ids of images without and with a label, and gives the former, the best first.
        reservations: shared by all strategies.
    """

    def __init__(
        self,
        description: str,
        order: Callable[[Sequence[str], Sequence[str]], Sequence[str]],
        reservations: Reservations,
    ) -> None:
        super().__init__(description)
        self.order, self.reservations = order, reservations

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """``{"id"}`` of the image; None where all are labelled."""
        unlabelled = sorted(datastore.get_unlabeled_images())
        found = self.reservations.take(
            self.order(unlabelled, sorted(datastore.get_labeled_images())), str(request.get("client_id") or "")
        )
        return None if found is None else {"id": found}


def strategies(seen: SeenFile) -> dict[str, Strategy]:
    """All strategies by name.

    Those that go by what the network saw ask the scoring's file; images that were not scored yet come after the
    others, at random, so that a strategy works before the first scoring too.

    Args:
        seen: what the scoring wrote.
    """
    held = Reservations()

    def by(rule: Callable[[Mapping[str, Seen], Sequence[str]], Sequence[str]]) -> Callable:
        def order(unlabelled: Sequence[str], labelled: Sequence[str]) -> list[str]:
            known = {name: one for name, one in seen.read().items() if name in {*unlabelled, *labelled}}
            first = [name for name in rule(known, labelled) if name in set(unlabelled)]
            return first + _shuffled([name for name in unlabelled if name not in set(first)])

        return order

    def uncertain(known: Mapping[str, Seen], labelled: Sequence[str]) -> list[str]:
        return [name for name in by_uncertainty(known) if known[name].uncertainty is not None]

    return {
        "random": Unlabelled("Any image without a label.", lambda some, _: _shuffled(some), held),
        "first": Unlabelled("The first image without a label, by name.", lambda some, _: some, held),
        "uncertainty": Unlabelled("The image that the network contradicts itself on most.", by(uncertain), held),
        "diversity": Unlabelled("The image that looks least like those with a label.", by(by_diversity), held),
        "hybrid": Unlabelled("Of the more uncertain images the least alike.", by(by_both), held),
    }


def _shuffled(names: Sequence[str]) -> list[str]:
    return random.SystemRandom().sample(list(names), len(names))
