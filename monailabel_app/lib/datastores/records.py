"""What a studies folder remembers besides the newest labels: earlier versions, who is held out, what is under way."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel_app.lib.datastores.names import ending_of
from sam_lora.files import clear_leftovers, read_json, write_aside, write_json
from sam_lora.weights import file_digest

_HELD_OUT, _EVERY = 1, 5  # the 2nd, 7th, 12th, ... patient


class Versions:
    """Earlier versions of labels, and what is said about the newest one, outside the folders that are tags.

    Only to be used under the datastore's lock.

    Args:
        folder: of all of them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, image: str, tag: str, label: Path, info: dict[str, Any]) -> None:
        """Keep a label that is about to be replaced or removed.

        Args:
            image: its id.
            tag: likewise.
            label: its file, which stays where it is.
            info: what is known about it.
        """
        folder = self._of(image, tag)
        folder.mkdir(parents=True, exist_ok=True)
        stamp = f"{time.time_ns():020d}"
        target = folder / f"{stamp}{ending_of(label.name)}"
        with write_aside(target) as temporary:
            shutil.copyfile(label, temporary)
        write_json(folder / f"{stamp}.json", {**info, "file": target.name, "digest": file_digest(target, "sha256")})

    def listed(self, image: str, tag: str) -> list[dict[str, Any]]:
        """What is known about each earlier version, the newest first."""
        kept = sorted(self._of(image, tag).glob("[0-9]*.json"), reverse=True)
        return [json.loads(path.read_text(encoding="utf-8")) for path in kept]

    def describe(self, image: str, tag: str, info: dict[str, Any]) -> None:
        """Write down what is known about the newest label, should the datastore's own file be lost."""
        folder = self._of(image, tag)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "current.json", info)

    def described(self, image: str, tag: str) -> dict[str, Any]:
        """What was written down about the newest label; empty for a label that was put there by hand."""
        path = self._of(image, tag) / "current.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def clear(self) -> None:
        """Remove what killed processes were writing."""
        for folder in self.folder.glob("*/*/"):
            clear_leftovers(folder)

    def _of(self, image: str, tag: str) -> Path:
        return self.folder / tag / image


class Journal:
    """The label that is being saved: should its process die, the next one can tell how far it came.

    Only to be used under the datastore's lock.

    Args:
        path: of the file, which is there only while a label is being saved.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, image: str, tag: str, ending: str, info: dict[str, Any], replaced: str | None) -> dict[str, Any]:
        """Write down what is about to be saved.

        Args:
            image: its id.
            tag: likewise.
            ending: of the label's file.
            info: what will be known about it; ``digest`` in it tells the new file from an old one.
            replaced: ending of the file that it replaces; None for a first label.

        Returns:
            All of it, by these names.
        """
        saving = {"image": image, "tag": tag, "ending": ending, "info": info, "replaced": replaced}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, json.loads(json.dumps(saving, default=str)))
        return saving

    def read(self) -> dict[str, Any] | None:
        """What was being saved when a process died; None if nothing was."""
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else None

    def end(self) -> None:
        """It is saved, or never will be."""
        self.path.unlink(missing_ok=True)


class HoldOut:
    """The patients whose cases are never trained on: the 2nd, 7th, 12th, ... in the order of their first label.

    Written once: a patient that is held out, or is not, stays so, and so does whose image it is, whatever becomes of
    what the datastore knows about it. Only to be used under the datastore's lock.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def patients(self) -> dict[str, str]:
        """Image -> whose it was when it was noted."""
        return dict(self._read().get("patients", {}))

    def note(self, images: Mapping[str, str]) -> set[str]:
        """Note labelled images, in their order.

        Args:
            images: image -> patient; what was noted of an image before is what counts.

        Returns:
            All noted images whose patients are held out.
        """
        before = self._read()
        known = dict(before.get("patients", {}))
        patients = {**images, **known}
        order = list(before.get("order", []))
        order += [one for one in dict.fromkeys(patients[image] for image in images) if one not in order]
        held_out = order[_HELD_OUT::_EVERY]
        if patients != known:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, {"order": order, "held_out": held_out, "patients": patients})
        return {image for image, patient in patients.items() if patient in held_out}

    def _read(self) -> dict[str, Any]:
        return read_json(self.path) if self.path.is_file() else {}


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file so that a reader sees all of it or nothing, and so that it survives a crash of the machine."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with write_aside(target) as temporary:
        shutil.copyfile(source, temporary)
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
