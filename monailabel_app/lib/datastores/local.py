"""A folder of studies: images as they lie there, labels that are never lost."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from monailabel.datastore.local import DataModel, ImageLabelModel
from monailabel.interfaces.exception import LabelNotFoundException

from monailabel_app.lib.datastores.label_names import check_label_info
from monailabel_app.lib.datastores.names import DatastoreError, check_id, check_tag, ending_of
from monailabel_app.lib.datastores.records import copy_whole
from monailabel_app.lib.datastores.shared_folder import FINAL, SharedFolder, is_done, patient_of
from sam_lora.cases import read_label
from sam_lora.reading import read_array
from sam_lora.weights import file_digest

MODEL_TAGS = ("original",)  # where MONAI Label's clients and batches put what a model made


class StudiesFolder(SharedFolder):
    """MONAI Label's local datastore, made safe.

    Ids, tags and file endings are checked; nothing outside the folder is read or written. Each change re-reads the
    datastore's file under a lock that all processes share, and writes it aside: concurrent saves lose nothing. Labels
    are written aside too, and what they replace is kept. Labels that a model made are marked, and do not count.

    Args:
        folder: of the images; a file that is put there later is seen at the next request.

    Raises:
        DatastoreError: naming the argument, the rule and the value, from every method.
    """

    def __init__(self, folder: str) -> None:
        self._grids: dict[tuple, tuple] = {}
        super().__init__(folder)

    # ---- reading: what is on the disk now -------------------------------------------------------------------------

    def list_images(self) -> list[str]:
        """Ids of all images."""
        with self._reading() as state:
            return list(state.objects)

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Ids of the images that a human has labelled."""
        with self._reading() as state:
            return [image for image, one in state.objects.items() if is_done(one)]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Ids of all others."""
        with self._reading() as state:
            return [image for image, one in state.objects.items() if not is_done(one)]

    def get_image_uri(self, image_id: str) -> str:
        """Path of an image; DatastoreError if there is none of this id."""
        with self._reading():
            return str(self._inside(super().get_image_uri(self._known(image_id))))

    def image_shape(self, image_id: str) -> tuple[int, ...]:
        """``(I, J, K)`` of an image."""
        return self._grid(Path(self.get_image_uri(image_id)))[0]

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Path of the newest label of an image; DatastoreError if there is none."""
        with self._reading() as state:
            if state.label(self._known(label_id), check_tag(label_tag)) is None:
                raise LabelNotFoundException(f"There is no label {label_tag!r} of {label_id!r}.")
            return str(self._inside(super().get_label_uri(label_id, label_tag)))

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is known about an image, and its path; empty if there is none of this id."""
        with self._reading():
            return dict(super().get_image_info(image_id))

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """What is known about the newest label of an image; empty if there is none."""
        with self._reading():
            return dict(super().get_label_info(label_id, label_tag))

    def label_versions(self, image_id: str, tag: str) -> list[dict[str, Any]]:
        """What is known about the earlier versions of a label, the newest first."""
        return self._versions.listed(self._known(image_id), check_tag(tag))

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """``{"image", "label"}`` paths of what humans have labelled."""
        with self._reading():
            done = self.get_labeled_images()
            return [{"image": self.get_image_uri(image), "label": self.get_label_uri(image, FINAL)} for image in done]

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """A ZIP file of images and human labels, which belongs to the caller; DatastoreError where there is none."""
        if not self.datalist():
            raise DatastoreError("There is no label to download yet.")
        return str(super().get_dataset_archive(limit_cases))

    def holdout(self) -> list[str]:
        """Ids of the labelled images whose patients are held out, see :class:`HoldOut`."""
        with self._locked():
            done = {image: one for image, one in self._datastore.objects.items() if is_done(one)}
            order = sorted(done, key=lambda image: (done[image].labels[FINAL].info.get("first_ts", 0), image))
            held_out = self._hold_out.note({image: patient_of(image, done[image]) for image in order})
        return [image for image in sorted(done) if image in held_out]

    def patient(self, image_id: str) -> str:
        """Whose image it is: what was noted at its first label, else what is said of it, else its own id."""
        with self._reading() as state:
            one = state.objects[self._known(image_id)]
            return self._hold_out.patients().get(image_id) or patient_of(image_id, one)

    def status(self) -> dict[str, Any]:
        """``{"total", "completed", "label_tags"}``."""
        with self._reading():
            return super().status()

    def json(self) -> dict[str, Any]:
        """All that is known, in MONAI Label's form."""
        with self._reading() as state:
            return state.model_dump(exclude={"base_path"})

    # ---- changing: under the lock, from what is on the disk -------------------------------------------------------

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Copy an image into the folder; an id that is there already is refused."""
        source = Path(image_filename)
        ending = ending_of(source.name)
        image_id = check_id(image_id or source.name[: -len(ending)])
        read_array(source, "imgs")  # an image that cannot be read is refused before anything is written
        with self._locked():
            if image_id in self._datastore.objects:
                raise DatastoreError(f"There is an image {image_id!r} already: give the new one another id.")
            known = self._hold_out.patients().get(image_id)  # of an image that was here before, and labelled
            if known is not None and str(image_info.get("patient") or known) != known:
                raise DatastoreError(
                    f"{image_id!r} was an image of patient {known!r}: give one of another patient another id."
                )
            copy_whole(source, Path(self._datastore.image_path()) / f"{image_id}{ending}")
            info = {**image_info, "ts": int(time.time()), "name": f"{image_id}{ending}"}
            self._datastore.objects[image_id] = ImageLabelModel(image=DataModel(info=info, ext=ending))
            self._update_datastore_file()
        return image_id

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Save a label map on its image's grid; what it replaces is kept as an earlier version.

        Args:
            image_id: of the image.
            label_filename: its file, which is copied.
            label_tag: "final" is what humans have finished.
            label_info: whatever the client says; ``model`` in it, or a tag that models have, marks what a model made.

        Returns:
            The label's id, which is the image's.

        Raises:
            DatastoreError: if names or the label cannot be used, or a model's would replace a human's final one.
            CaseError: if the label does not lie on the image's grid.
        """
        source, ending = Path(label_filename), ending_of(Path(label_filename).name)
        tag, image_path = check_tag(label_tag), Path(self.get_image_uri(image_id))
        shape, meta = self._grid(image_path)
        read_label(source, shape, image_path, meta)
        check_label_info((label_info or {}).get("label_info"))
        made_by = "model" if (label_info or {}).get("model") or tag in MODEL_TAGS else "human"
        with self._locked():
            one = self._datastore.objects[self._known(image_id)]
            before = one.labels.get(tag)
            if tag == FINAL and made_by == "model" and is_done(one):
                raise DatastoreError(
                    f"{image_id!r} has a label that a human has finished: a model's does not replace it."
                )
            target = Path(self._datastore.label_path(tag)) / f"{image_id}{ending}"
            now = int(time.time())
            info = {**(label_info or {}), "ts": now, "first_ts": before.info.get("first_ts", now) if before else now,
                    "name": target.name, "made_by": made_by, "digest": file_digest(source, "sha256")}  # fmt: skip
            old = None if before is None else Path(self._datastore.label_path(tag)) / f"{image_id}{before.ext}"
            if before is not None and old is not None and old.is_file():
                self._versions.keep(image_id, tag, old, before.info)
            saving = self._journal.begin(image_id, tag, ending, info, before.ext if before else None)
            copy_whole(source, target)
            self._note_saved(saving)
        return image_id

    def remove_image(self, image_id: str) -> None:
        """Remove an image and its labels; earlier versions of the labels, and the last one, are kept."""
        with self._locked():
            one = self._datastore.objects[self._known(image_id)]
            for tag in list(one.labels):
                self._drop_label(image_id, tag)
            Path(self.get_image_uri(image_id)).unlink()
            del self._datastore.objects[image_id]
            self._update_datastore_file()

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label; it is kept as an earlier version."""
        with self._locked():
            self.get_label_uri(label_id, label_tag)  # refuses what is not there
            self._drop_label(label_id, label_tag)
            self._update_datastore_file()

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Add to what is known about an image; whose it is stays once it has a label, or a held-out one could slip out."""
        with self._locked():
            one = self._datastore.objects[self._known(image_id)]
            patient = self.patient(image_id)
            was_done = is_done(one) or self._versions.listed(image_id, FINAL)
            if was_done and "patient" in info and str(info["patient"] or image_id) != patient:
                raise DatastoreError(
                    f"{image_id!r} is of patient {patient!r}, and that stays: whether it is held out was decided by it."
                )
            one.image.info.update(info)
            self._update_datastore_file()

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Add to what is known about a label; who made it, and when, stays."""
        check_label_info(info.get("label_info"))
        with self._locked():
            self.get_label_uri(label_id, label_tag)
            label = self._datastore.objects[label_id].labels[label_tag]
            kept = {
                key: label.info[key] for key in ("made_by", "ts", "first_ts", "digest", "name") if key in label.info
            }
            label.info.update({**info, **kept})
            self._versions.describe(label_id, label_tag, label.info)
            self._update_datastore_file()

    def _drop_label(self, image: str, tag: str) -> None:
        path = Path(self.get_label_uri(image, tag))
        self._versions.keep(image, tag, path, self._datastore.objects[image].labels[tag].info)
        path.unlink()
        del self._datastore.objects[image].labels[tag]

    def _grid(self, path: Path) -> tuple[tuple[int, ...], dict[str, Any]]:
        """Shape and place of an image; remembered, because a large one takes seconds to read."""
        status = path.stat()
        key = (str(path), status.st_mtime_ns, status.st_size)
        if key not in self._grids:
            array, meta = read_array(path, "imgs")
            self._grids[key] = (tuple(array.shape[:3]), meta)
        return self._grids[key]
