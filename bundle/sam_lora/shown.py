"""An image or volume as a person looks at it: its slices, their proportions, and where in the patient they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from sam_lora.cases import read_image, stem

OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))


@dataclass(frozen=True)
class ShownImage:
    """One image or volume.

    Args:
        path: the file, or the folder of a DICOM series.
        array: ``(I, J, K)`` or ``(I, J, K, 3)``, uint8; voxel order of the stored grid.
        affine: voxel -> RAS mm.
        axis: the slice axis; the other two, in order, are x and y.
        has_place: whether the file says how its voxels lie in a patient. A picture does not.
    """

    path: Path
    array: np.ndarray
    affine: np.ndarray
    axis: int = 2
    has_place: bool = True

    @classmethod
    def read(cls, path: Path, intensity: Mapping[str, Sequence[float]], axis: int = 2) -> ShownImage:
        """Read anything that :func:`sam_lora.cases.read_image` reads; CaseError as it says."""
        array, meta = read_image(path, intensity)
        return cls(path, array, np.asarray(meta["affine"], float), axis, meta["has_spacing"])

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return stem(self.path.absolute())

    @property
    def slices_last(self) -> np.ndarray:
        """The array with its slice axis third, the other two being x and y."""
        return np.moveaxis(self.array, self.axis, 2)

    @property
    def aspect(self) -> float:
        """Height of a pixel over its width."""
        if not self.has_place:
            return 1.0
        x, y = np.delete(np.linalg.norm(self.affine[:3, :3], axis=0), self.axis)
        return float(y / x)

    @property
    def towards(self) -> tuple[str, str] | None:
        """Where in the patient x and y run to, out of R, L, A, P, S, I; None where the file does not say."""
        if not self.has_place:
            return None
        x, y = (code for a, code in enumerate(nibabel.aff2axcodes(self.affine)) if a != self.axis)
        return x, y
