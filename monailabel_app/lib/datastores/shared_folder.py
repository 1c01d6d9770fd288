"""The state of a studies folder, which several threads and processes read and change."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore, LocalDatastoreModel
from monailabel.interfaces.exception import ImageNotFoundException

from monailabel_app.lib.datastores.label_names import RECORDS
from monailabel_app.lib.datastores.names import ENDINGS, DatastoreError, check_id, ending_of, is_id
from monailabel_app.lib.datastores.records import HoldOut, Journal, Versions
from sam_lora.files import clear_leftovers, write_json
from sam_lora.weights import file_digest

logger = logging.getLogger(__name__)

FINAL = "final"
# Two changes within one tick of a file system's clock look like one. Kernels tick every 1 to 10 ms; the rest is for
# the delays of a network. To look again costs up to 0.2 s with a thousand images.
_TICK_NS = 100_000_000


class SharedFolder(LocalDatastore):
    """What lies in a folder and what its file says of it, brought together.

    Who changes something does it in :meth:`_locked`, who reads in :meth:`_reading`.

    Args:
        folder: of the images.
    """

    def __init__(self, folder: str) -> None:
        records = Path(folder) / RECORDS
        self._versions, self._hold_out = Versions(records / "versions"), HoldOut(records / "holdout.json")
        self._journal = Journal(records / "saving.json")
        self._mutex, self._process_lock = threading.RLock(), FileLock(Path(folder) / ".lock", thread_local=False)
        self._seen: tuple = ()
        self._readings = 0
        self._warned: set[str] = set()
        super().__init__(folder, extensions=[f"*{ending}" for ending in ENDINGS], auto_reload=False)
        with self._locked():
            self._versions.clear()
            for path in (self._hold_out.path, self._journal.path):
                clear_leftovers(path.parent, path.name)

    @contextmanager
    def _reading(self) -> Iterator[LocalDatastoreModel]:
        """The state as it is now, which stays so for a block: no other thread changes it, nothing is read again."""
        with self._mutex:
            if self._readings == 0 and (not self._seen or self._state() != self._seen):
                with self._locked():
                    pass
            self._readings += 1
            try:
                yield self._datastore
            finally:
                self._readings -= 1

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Have the folder for oneself, with its state read anew."""
        with self._mutex, self._process_lock:
            outermost = self._process_lock.lock_counter == 1
            if outermost:
                self._seen = ()  # should the block fail, what it has changed in memory is not believed
                self._reconcile_datastore()
            yield
            if outermost:
                self._seen = self._state()

    def _state(self) -> tuple:
        """Of all that a change touches; empty where the last change is so young that another could look the same."""
        paths = [Path(self._datastore.image_path()), Path(self._datastore_config_path)]
        paths += [path for path in Path(self._datastore.label_path("")).glob("*") if path.is_dir()]
        found = [(str(path), path.stat()) for path in paths if path.exists()]
        if max(status.st_ctime_ns for _, status in found) > time.time_ns() - _TICK_NS:
            return ()
        return tuple((path, one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for path, one in found)

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        """Nothing: MONAI Label's steps of a reconciliation call this; the file is read once, before them."""

    def _read_datastore_file(self) -> None:
        path = Path(self._datastore_config_path)
        if not path.is_file():
            return
        try:
            read = LocalDatastoreModel.model_validate_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            aside = path.with_name(f"{path.name}.broken-{int(time.time())}")
            path.replace(aside)
            logger.error("%s cannot be read (%s): it was moved to %s, and is made anew.", path, error, aside)
            return
        read.base_path = self._datastore_path
        self._datastore = read

    def _update_datastore_file(self, lock: bool = True) -> None:
        with self._mutex, self._process_lock:
            content = self._datastore.model_dump(exclude={"base_path"})
            write_json(Path(self._datastore_config_path), json.loads(json.dumps(content, default=str)))

    def _reconcile_datastore(self) -> None:
        """Add what lies in the folder and is not known, drop what is known and not there, end what was begun."""
        with self._mutex, self._process_lock:
            # Whoever writes here holds the lock: what is half-written now belongs to a process that is dead.
            for folder in [Path(self._datastore.image_path()), *Path(self._datastore.label_path("")).glob("*/")]:
                clear_leftovers(folder)
            self._read_datastore_file()
            super()._reconcile_datastore()
            self._end_interrupted_save()

    def _end_interrupted_save(self) -> None:
        saving = self._journal.read()
        if saving is None:
            return
        path = Path(self._datastore.label_path(saving["tag"])) / f"{saving['image']}{saving['ending']}"
        image_is_there = saving["image"] in self._datastore.objects
        if image_is_there and path.is_file() and file_digest(path, "sha256") == saving["info"]["digest"]:
            self._note_saved(saving)
        else:
            self._journal.end()

    def _note_saved(self, saving: dict[str, Any]) -> None:
        """Note a label whose file is in its place.

        Args:
            saving: see :meth:`monailabel_app.lib.datastores.records.Journal.begin`.
        """
        image, tag, ending, info = (saving[key] for key in ("image", "tag", "ending", "info"))
        one = self._datastore.objects[image]
        self._versions.describe(image, tag, info)
        one.labels[tag] = DataModel(info=info, ext=ending)
        self._update_datastore_file()
        if saving["replaced"] not in (None, ending):
            (Path(self._datastore.label_path(tag)) / f"{image}{saving['replaced']}").unlink(missing_ok=True)
        if is_done(one):
            self._hold_out.note({image: patient_of(image, one)})
        self._journal.end()

    def _list_files(self, path: str, patterns: list[str]) -> dict[str, str]:
        """Files whose names and places may be served; the others are named once in the log."""
        served = {}
        for name in super()._list_files(path, patterns):
            stem = name[: -len(ending_of(name))]
            if is_id(stem) and self._is_inside(Path(path) / name):
                served[name] = name
            elif name not in self._warned:
                self._warned.add(name)
                logger.warning("%s is not served: its name is no image id, or it leads out of the folder.", name)
        return served

    def _to_id(self, file: str) -> tuple[str, str]:
        ending = ending_of(file)
        return file[: -len(ending)], ending

    def _add_non_existing_labels(self, tag: str) -> int:
        before = {image: set(one.labels) for image, one in self._datastore.objects.items()}
        added = int(super()._add_non_existing_labels(tag))
        for image, one in self._datastore.objects.items():
            if tag in one.labels and tag not in before.get(image, set()):
                described = self._versions.described(image, tag)
                path = Path(self._datastore.label_path(tag)) / f"{image}{one.labels[tag].ext}"
                if described.get("digest") == file_digest(path, "sha256"):  # else it was put there by hand
                    one.labels[tag].info = {**one.labels[tag].info, **described}
        return added

    def _known(self, image_id: str) -> str:
        with self._reading() as state:
            if check_id(image_id) not in state.objects:
                raise ImageNotFoundException(f"There is no image {image_id!r}.")
        return image_id

    def _is_inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(Path(self._datastore_path).resolve())

    def _inside(self, path: str) -> Path:
        if not self._is_inside(Path(path)):
            raise DatastoreError(f"{Path(path).name} leads out of the studies folder.")
        return Path(path)


def is_done(one: ImageLabelModel) -> bool:
    """Whether a human has finished a label of an image."""
    label = one.labels.get(FINAL)
    return label is not None and label.info.get("made_by") != "model"


def patient_of(image: str, one: ImageLabelModel) -> str:
    """Whose image it is said to be; the image's own id where nobody has said."""
    return str(one.image.info.get("patient") or image)
