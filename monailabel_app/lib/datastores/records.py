"""What a studies folder remembers besides the newest labels: their earlier versions, and who is held out."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monailabel_app.lib.datastores.names import ending_of
from sam_lora.files import write_aside, write_json
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

    def _of(self, image: str, tag: str) -> Path:
        return self.folder / tag / image


class HoldOut:
    """The patients whose cases are never trained on: the 2nd, 7th, 12th, ... in the order of their first label.

    Written once: a patient that is held out, or is not, stays so. Only to be used under the datastore's lock.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, patients: Sequence[str]) -> set[str]:
        """Append those patients that are new, in their order.

        Returns:
            All that are held out.
        """
        order = json.loads(self.path.read_text(encoding="utf-8"))["order"] if self.path.is_file() else []
        new = [patient for patient in dict.fromkeys(patients) if patient not in order]
        held_out = [patient for place, patient in enumerate([*order, *new]) if place % _EVERY == _HELD_OUT]
        if new:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, {"order": [*order, *new], "held_out": held_out})
        return set(held_out)


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
