"""How sure the network is of each image that nobody has labelled."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod

from monailabel_app.lib.infers.automatic import Automatic
from sam_lora.files import write_json

logger = logging.getLogger(__name__)


class PredictedIoU(ScoringMethod):
    """Mean predicted IoU of the slices on which a label is found without a prompt, 0 where none is.

    Scores are kept in a file of their own: the datastore's file belongs to labels.

    Args:
        automatic: segments without prompts.
        path: JSON that holds the scores, image id -> ``{"predicted_iou", "adapter", "adapter_digest"}``.
    """

    def __init__(self, automatic: Automatic, path: Path) -> None:
        super().__init__("How sure the network is of each image without a label.")
        self.automatic, self.path = automatic, path

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score every image without a label.

        Returns:
            What the file holds.

        Raises:
            ValueError: if no adapter has learned a label yet.
        """
        scores: dict[str, Any] = {}
        images = sorted(datastore.get_unlabeled_images())
        for number, image in enumerate(images, 1):
            path, params = self.automatic({"image": datastore.get_image_uri(image)})
            Path(path).unlink()
            sure = [value for found in params["confidence"].values() for value in found.values()]
            scores[image] = {
                "predicted_iou": round(sum(sure) / len(sure), 4) if sure else 0.0,
                **{key: params[key] for key in ("adapter", "adapter_digest")},
            }
            logger.info("scored %s, %d of %d", image, number, len(images))
        write_json(self.path, scores)
        return scores
