"""Which image to label next."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy


class Random(Strategy):
    """Any image that nobody has labelled."""

    def __init__(self) -> None:
        super().__init__("Any image without a label.")

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """``{"id"}`` of the image; None where all are labelled."""
        images = datastore.get_unlabeled_images()
        return {"id": random.SystemRandom().choice(images)} if images else None


class First(Strategy):
    """The first image by name that nobody has labelled: who works through a list finds it in order."""

    def __init__(self) -> None:
        super().__init__("The first image without a label, by name.")

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """``{"id"}`` of the image; None where all are labelled."""
        images = sorted(datastore.get_unlabeled_images())
        return {"id": images[0]} if images else None
