"""Volumes that were read, kept for the next click."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sam_lora.cases import read_image
from sam_lora.reading import CaseError
from sam_lora.volumes import Volume

IMAGE_BYTES = 1 << 30  # of voxels, uint8: 24 CT of 512 x 512 x 160


@dataclass(frozen=True)
class Study:
    """An image that is ready for the network.

    Args:
        array: ``(I, J, K)`` or ``(I, J, K, 3)``, uint8.
        affine: voxel -> RAS mm, 4 x 4.
        volumes: slice axis -> the array's slices along it.
    """

    array: np.ndarray
    affine: np.ndarray
    volumes: dict[int, Volume]

    def volume(self, axis: int) -> Volume:
        """The slices along an axis; the same object each time, which remembers their digests."""
        return self.volumes.setdefault(axis, Volume(self.array, axis))


class Images:
    """Images by file and intensity setting, the least recently used forgotten first; a changed file is read anew.

    Args:
        max_bytes: of all arrays together.
    """

    def __init__(self, max_bytes: int = IMAGE_BYTES) -> None:
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._reading: dict[tuple, threading.Lock] = {}
        self._held: OrderedDict[tuple, Study] = OrderedDict()

    def get(self, path: Path, intensity: Mapping[str, Sequence[float]]) -> Study:
        """Read an image, or find it.

        Raises:
            CaseError: if it is missing or cannot be read.
        """
        key = (*_state(path), json.dumps(intensity, sort_keys=True))
        with self._lock:
            reading = self._reading.setdefault(key, threading.Lock())
        try:
            with reading:  # of several requests for a new image one reads
                return self._held_or_read(key, path, intensity)
        finally:
            with self._lock:
                self._reading.pop(key, None)

    def forget(self, path: Path) -> None:
        """Give up what was read from a file that is not asked for again."""
        with self._lock:
            for key in [key for key in self._held if key[0][0] == str(path)]:
                del self._held[key]

    def _held_or_read(self, key: tuple, path: Path, intensity: Mapping[str, Sequence[float]]) -> Study:
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        array, meta = read_image(path, intensity)
        study = Study(array, np.asarray(meta["affine"], float), {})
        with self._lock:
            self._held[key] = study
            while len(self._held) > 1 and sum(one.array.nbytes for one in self._held.values()) > self.max_bytes:
                self._held.popitem(last=False)
        return study


def _state(path: Path) -> tuple:
    """Of a file, or of each in a folder: path, time and size."""
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        return tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files)
    except OSError as error:
        raise CaseError(f"The image {path.name} is not there any more.") from error
