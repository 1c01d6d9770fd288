"""Drafts of many images, one after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.tasks.batch_infer import BatchInferTask

logger = logging.getLogger(__name__)

_NAMED = 10  # images that failed, in the sentence that ends a batch; each has its own in the log


class BatchError(RuntimeError):
    """No image of a batch could be segmented."""


class Batch(BatchInferTask):
    """MONAI Label's batch, which goes on after an image that cannot be segmented."""

    def __call__(
        self, request: Mapping[str, Any], datastore: Datastore, infer: Callable[[Any, Datastore], dict[str, Any]]
    ) -> dict[str, Any]:
        """Segment the images of a request.

        Args:
            request: see :func:`monailabel_app.lib.tasks.start_batch`.
            datastore: the images, and where drafts go.
            infer: segments one image and saves its draft.

        Returns:
            Image id -> its answer, or ``{"failed": why}``. The log's last line names those that failed.

        Raises:
            BatchError: if all of them failed.
        """
        failed: dict[str, str] = {}

        def infer_or_note(one: Mapping[str, Any], store: Datastore) -> dict[str, Any]:
            try:
                return infer(one, store)
            except Exception as error:  # whatever it is, it is this image's: the others are segmented
                logger.exception("%s has no draft", one["image"])
                said = error.msg if isinstance(error, MONAILabelException) else str(error)
                failed[one["image"]] = said or type(error).__name__
                return {}

        done = super().__call__(request, datastore, infer_or_note)
        if failed:
            sentence = f"{len(failed)} of {len(done)} images have no draft: {_listed(failed)}"
            if len(failed) == len(done):
                raise BatchError(sentence)
            logger.warning(sentence)
        return {**done, **{image: {"failed": why} for image, why in failed.items()}}


def _listed(failed: Mapping[str, str]) -> str:
    named = [f"{image}: {why}" for image, why in sorted(failed.items())[:_NAMED]]
    more = len(failed) - len(named)
    return "; ".join([*named, f"and {more} more, see the log."] if more else named)
