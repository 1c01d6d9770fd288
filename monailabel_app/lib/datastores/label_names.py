"""What is annotated in a studies folder, and what the values in a saved label map mean."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from monailabel_app.lib.datastores.names import DatastoreError
from sam_lora.files import clear_leftovers, write_json

RECORDS = ".sam_lora"  # in the studies folder: names of labels, hold-out, earlier versions, trainings, scores, sessions
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.\-]{0,63}")
BACKGROUND = "background"


class LabelNames:
    """The names that are annotated in a studies folder, value -> name from 1 on: appended, never renumbered.

    Args:
        studies: the folder.
    """

    def __init__(self, studies: Path) -> None:
        self.path = studies / RECORDS / "labels.json"

    def read(self) -> dict[int, str]:
        """All names now.

        Raises:
            DatastoreError: if their file is broken.
        """
        if not self.path.is_file():
            return {}
        try:
            return {int(value): str(name) for value, name in json.loads(self.path.read_text(encoding="utf-8")).items()}
        except (ValueError, AttributeError) as error:
            raise DatastoreError(
                f"{self.path} must be a JSON object, value -> name, and cannot be read: {error}."
            ) from error

    def append(self, names: Sequence[str]) -> dict[int, str]:
        """Add those names that are not there yet.

        Returns:
            All names.

        Raises:
            DatastoreError: if one cannot be a name.
        """
        for name in names:
            if not isinstance(name, str) or not _NAME.fullmatch(name) or name.lower() == BACKGROUND:
                raise DatastoreError(
                    f"A label's name has 1 to 64 letters, digits, spaces, '_', '-' and '.', begins with a letter or "
                    f"digit, and is not {BACKGROUND}, got {name!r}."
                )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):
            clear_leftovers(self.path.parent, self.path.name)
            known = self.read()
            new = [name for name in dict.fromkeys(names) if name not in known.values()]
            if new:
                known |= dict(enumerate(new, len(known) + 1))
                write_json(self.path, known)
        return known


def check_label_info(label_info: Any) -> None:
    """Make sure that a client's list of segments is one; DatastoreError if it is not."""
    if label_info and not (isinstance(label_info, list) and all(isinstance(one, Mapping) for one in label_info)):
        raise DatastoreError(
            f'label_info must be a list of {{"name": ...}}, a segment each, got {str(label_info)[:100]}.'
        )


def mapped_label(
    label: np.ndarray, label_info: Sequence[Mapping[str, Any]] | None, class_names: Mapping[int, str]
) -> np.ndarray:
    """A saved label map with the values that the classes have here.

    A client numbers the segments it exports from 1; ``label_info`` names them in that order. Its ``idx`` may count a
    background too, so it is not looked at.

    Args:
        label: integers, 0 background.
        label_info: ``[{"name": "spleen", "idx": 1}, ...]``; None where nobody named them: the values are the classes'.
        class_names: value -> name.

    Returns:
        The same shape, the classes' values.

    Raises:
        DatastoreError: if a value has no name, a name is no class, or ``label_info`` is none.
    """
    check_label_info(label_info)
    values = {int(value) for value in np.unique(label)} - {0}
    if not label_info:
        unknown = sorted(values - class_names.keys())
        if unknown:
            raise DatastoreError(f"The label map holds the value {unknown[0]}, known are {_listed(class_names)}.")
        return label
    named = [str(one.get("name", "")) for one in label_info]
    named = [name for name in named if name.lower() != BACKGROUND]
    places = {name: value for value, name in class_names.items()}
    result = np.zeros_like(label)
    for value in sorted(values):
        if value > len(named):
            raise DatastoreError(
                f"The label map holds the value {value}, and its label_info names {len(named)} segments."
            )
        name = named[value - 1]
        if name not in places:
            raise DatastoreError(f"The label map holds the segment {name!r}, known are {_listed(class_names)}.")
        result[label == value] = places[name]
    return result


def _listed(class_names: Mapping[int, str]) -> str:
    return ", ".join(f"{value} {name}" for value, name in class_names.items()) or "none: start with --labels"
