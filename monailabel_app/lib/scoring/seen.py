"""What the network makes of each image, for the strategies: computed in the background, kept beside the labels."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.tasks.scoring import ScoringMethod

from monailabel_app.lib.service import Service
from sam_lora.files import write_json
from sam_lora.reading import CaseError
from sam_lora.selection import Seen, look_at

logger = logging.getLogger(__name__)


class SeenFile:
    """A JSON file of what was seen: image id -> ``{"uncertainty", "features", "adapter_digest"}``.

    Args:
        path: of the file; may be missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Seen]:
        """Image id -> what was seen, all by one adapter: while images are looked at anew, by the one that saw most."""
        rows = self.rows()
        counted = Counter(one.get("adapter_digest") for one in rows.values())
        digest = counted.most_common(1)[0][0] if counted else None
        return {
            image: Seen(one["uncertainty"], np.array(one["features"], np.float32))
            for image, one in rows.items()
            if one.get("adapter_digest") == digest
        }

    def rows(self) -> dict[str, Any]:
        """The file's content; empty where it cannot be read: a scoring makes it anew."""
        try:
            return dict(json.loads(self.path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            logger.warning("%s cannot be read, and is made anew: %s", self.path, error)
            return {}


class Scoring(ScoringMethod):
    """Looks at every image with the champion, see :func:`sam_lora.selection.look_at`.

    Each image is written down as soon as it was looked at: a scoring that was stopped goes on where it was, and one
    after a promotion looks at all of them anew. Images with a label are looked at too, because diversity is distance
    from them. The datastore's own file stays as it is.

    Args:
        service: the adapters, images and device.
        seen: where it is written.
    """

    def __init__(self, service: Service, seen: SeenFile) -> None:
        super().__init__("How sure the network is of each image, and what it looks like; for the strategies.")
        self.service, self.seen = service, seen

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Look at every image.

        Returns:
            Image id -> its uncertainty, and the champion by which it was looked at.
        """
        served = self.service.adapters.get()
        images = sorted(datastore.list_images())
        rows = {image: row for image, row in self.seen.rows().items() if image in set(images)}
        for number, image in enumerate(images, 1):
            if rows.get(image, {}).get("adapter_digest") == served.digest:
                continue
            try:
                volume = self.service.images.get(Path(datastore.get_image_uri(image)), served.intensity).volume(2)
            except (CaseError, MONAILabelException) as error:  # the strategies give it last; the others are looked at
                logger.warning("%s, %d of %d, cannot be looked at: %s", image, number, len(images), error)
                continue
            with self.service.device.hold(background=True), torch.inference_mode():
                found = look_at(served.embedder, volume, range(len(served.tokens)))
            rows[image] = {
                "uncertainty": None if found.uncertainty is None else round(found.uncertainty, 4),
                "features": [round(float(value), 5) for value in found.features],
                "adapter": served.name,
                "adapter_digest": served.digest,
            }
            write_json(self.seen.path, rows)
            logger.info("looked at %s, %d of %d", image, number, len(images))
        return {image: {key: row[key] for key in ("uncertainty", "adapter")} for image, row in rows.items()}
