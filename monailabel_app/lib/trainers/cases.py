"""The labelled cases of a studies folder as a datalist: who is trained on, and who is held out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.exception import MONAILabelException

from monailabel_app.lib.datastores.label_names import mapped_label
from monailabel_app.lib.datastores.local import FINAL, StudiesFolder
from monailabel_app.lib.datastores.names import DatastoreError
from monailabel_app.lib.trainers.settings import STRIDE
from sam_lora.cases import write_nifti
from sam_lora.files import write_json
from sam_lora.networks import look_up_variant
from sam_lora.reading import read_array
from sam_lora.weights import file_digest

logger = logging.getLogger(__name__)

# Times a slice is enlarged for the network, no further: a minute at twice the size sees a third of the slices, and hippocampi
# came out no better.
_ENLARGED = 1.25


class TrainingCases:
    """Labelled cases.

    Args:
        datastore: images and labels.
        names: value -> name of what is annotated.
    """

    def __init__(self, datastore: StudiesFolder, names: Mapping[int, str]) -> None:
        self.datastore, self.names = datastore, dict(names)
        self._digests: dict[str, str] = {}

    def images(self) -> list[str]:
        """Ids of the images that are trained on."""
        labelled = sorted(self.datastore.get_labeled_images())
        held_out = set(self.datastore.holdout())  # asked last: it knows of whoever is labelled meanwhile
        return [image for image in labelled if image not in held_out]

    def write(self, folder: Path, axis: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Write label maps with the values of the names, and ``datalist.json``, into a folder.

        The hold-out is in no list of the datalist: nothing of a training may depend on it.

        Args:
            folder: of a training.
            axis: of the slices.

        Returns:
            Entries that are trained on, and those that are held out.

        Raises:
            ValueError: if a label cannot be used; the sentence names it.
        """
        held_out = self.datastore.holdout()
        training = self._entries(self.images(), folder, axis)
        self.write_list(folder, training)
        return training, self._entries(held_out, folder, axis)

    def _entries(self, images: Sequence[str], folder: Path, axis: int) -> list[dict[str, Any]]:
        entries = []
        for image in images:
            try:
                entries.append(self.entry(image, folder, axis))
            except MONAILabelException as error:
                logger.warning("%s was removed meanwhile: the training goes on without it: %s", image, error.msg)
        return entries

    def write_list(self, folder: Path, training: Sequence[Mapping[str, Any]]) -> None:
        """Write ``datalist.json`` of entries that are trained on into a folder."""
        labels = {str(value): label for value, label in self.names.items()}
        write_json(folder / "datalist.json", {"training": list(training), "labels": labels})

    def entry(self, image: str, folder: Path, axis: int) -> dict[str, Any]:
        """The entry of an image; its label map is written into ``folder``.

        Raises:
            MONAILabelException: if the image or its label was removed meanwhile.
            ValueError: if the label cannot be used.
        """
        info: dict[str, Any] | None = None
        while info != (now := self.datastore.get_label_info(image, FINAL)):  # it is saved meanwhile: read anew
            info, source = now, Path(self.datastore.get_label_uri(image, FINAL))
            array, meta = read_array(source, "gts")
            self._digests[image] = file_digest(source, "sha256")
        try:
            mapped = mapped_label(array, info.get("label_info"), self.names)
        except DatastoreError as error:
            raise DatastoreError(f"The label of {image} cannot be used. {error}") from error
        path = folder / "labels" / f"{image}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        write_nifti(path, mapped.astype(np.uint8 if mapped.max() < 256 else np.int32), meta["affine"])
        return {
            "image": self.datastore.get_image_uri(image), "label": str(path), "name": image,
            "patient": self.datastore.patient(image), "axis": axis,
        }  # fmt: skip

    def described(self, entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """For a pedigree: whose images, and which version of their labels; entries that were made here."""
        return [
            {"image": one["name"], "patient": one["patient"], "label_digest": self._digests[one["name"]]}
            for one in entries
        ]

    def fitting_size(self, variant: str, axis: int) -> int:
        """The smallest image size that enlarges the largest slice that is trained on enough, in pixels.

        It is not above the variant's own.
        """
        shapes = [self.datastore.image_shape(image) for image in self.images()]
        longest = max(side for shape in shapes for a, side in enumerate(shape) if a != axis)
        wanted = -(-round(longest * _ENLARGED) // STRIDE) * STRIDE
        return min(look_up_variant(variant).image_size, max(wanted, 4 * STRIDE))

    @staticmethod
    def slices(entries: Sequence[Mapping[str, Any]]) -> int:
        """How many slices some cases have together."""
        return sum(read_array(Path(e["image"]), "imgs")[0].shape[e["axis"]] for e in entries)
