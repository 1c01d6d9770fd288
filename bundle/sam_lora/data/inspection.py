"""What is in a datalist and what is wrong with it: measurements, problems, and a page to look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sam_lora.adapter import DEFAULT_INTENSITY
from sam_lora.cases import CaseError, read_array, read_label, to_uint8
from sam_lora.data.split import SECTIONS
from sam_lora.weights import file_digest

TINY = 10  # voxels: an object this small is more often a slip of the pen than anatomy


@dataclass
class CaseReport:
    """What one case holds, and its problems as sentences."""

    name: str
    section: str
    patient: str
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    intensities: tuple[float, float, float] = (0.0, 0.0, 0.0)  # least, median, largest
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(0))
    volumes: dict[int, float] = field(default_factory=dict)  # label value -> millilitres
    picture: tuple[np.ndarray, np.ndarray] | None = None  # the slice with most label: image uint8, label
    problems: list[str] = field(default_factory=list)


def inspect_case(
    entry: Mapping[str, Any], section: str, labels: Mapping[int, str], intensity: Any = None
) -> CaseReport:
    """Look at one case; what is wrong with it is in its report, never raised.

    Args:
        entry: of a datalist, with absolute paths.
        section: it is in.
        labels: value -> name; a value without a name is a problem where any are named.
        intensity: the setting its histogram is held against.
    """
    report = CaseReport(str(entry["name"]), section, str(entry["patient"]))
    try:
        array, meta = read_array(Path(entry["image"]), "imgs")
        report.shape = array.shape
        affine = meta["affine"]
        report.spacing = tuple(float(v) for v in np.linalg.norm(affine[:3, :3], axis=0))
        finite = np.isfinite(array)
        if not finite.all():
            report.problems.append(f"{int((~finite).sum())} pixels are NaN or infinite")
            array = np.where(finite, array, 0)
        report.intensities = tuple(float(v) for v in np.percentile(array, [0, 50, 100]))  # type: ignore[assignment]
        report.histogram = np.histogram(array, 40)[0]
        if array.min() == array.max():
            report.problems.append("the image has one value everywhere")
        if entry.get("label"):
            _look_at_label(report, entry, array, affine, labels, intensity)
        else:
            report.problems.append("it has no label")
    except CaseError as error:
        report.problems.append(str(error))
    return report


def _look_at_label(
    report: CaseReport,
    entry: Mapping[str, Any],
    array: np.ndarray,
    affine: np.ndarray,
    labels: Mapping[int, str],
    intensity: Any,
) -> None:
    path = Path(entry["label"])
    label = read_label(path, array.shape[:3], Path(entry["image"]))
    other = read_array(path, "gts")[1]["affine"]
    if not np.allclose(affine, other, atol=1e-3):
        report.problems.append(_geometry(affine, other))
    values, counts = np.unique(label[label > 0], return_counts=True)
    millilitres = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    report.volumes = {int(v): int(n) * millilitres for v, n in zip(values, counts, strict=True)}
    if not len(values):
        report.problems.append("the mask is empty")
    for value, count in zip(values, counts, strict=True):
        if labels and int(value) not in labels:
            report.problems.append(f"value {value} has no name in the datalist")
        if count < TINY:
            report.problems.append(f"{labels.get(int(value), value)} has only {count} voxels")
    k = int((label > 0).sum((0, 1)).argmax())
    shown = array[:, :, k] if array.dtype == np.uint8 else to_uint8(array[:, :, k], intensity or DEFAULT_INTENSITY)
    report.picture = np.ascontiguousarray(np.swapaxes(shown, 0, 1)), np.ascontiguousarray(label[:, :, k].T)


def _geometry(image: np.ndarray, label: np.ndarray) -> str:
    """What differs between two affines, in words."""
    for axis, (one, other) in enumerate((("left", "right"), ("back", "front"), ("foot", "head"))):
        mirrored = image.copy()
        column = int(np.abs(image[axis, :3]).argmax())
        mirrored[:3, column] *= -1
        if np.allclose(mirrored[:3, :3], label[:3, :3], atol=1e-3):
            return f"image and mask are flipped {one}-{other}: their affines differ in sign"
    return "image and mask have different geometry: origin, spacing or direction differ"


def across_cases(cases: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """Problems between cases: one patient, or one file's content, on two sides of the split.

    Args:
        cases: section -> entries with absolute paths.
    """
    patients: dict[str, set[str]] = {}
    contents: dict[str, dict[str, str]] = {}
    for section in SECTIONS:
        for entry in cases.get(section, []):
            patients.setdefault(str(entry["patient"]), set()).add(section)
            path = Path(entry["image"])
            if path.is_file():
                contents.setdefault(file_digest(path, "sha256"), {})[str(entry["name"])] = section
    for patient, sections in sorted(patients.items()):
        if len(sections) > 1:
            yield f"patient {patient} is in {' and in '.join(s for s in SECTIONS if s in sections)}"
    for names in contents.values():
        if len(names) > 1:
            where = "two sections" if len(set(names.values())) > 1 else f"{next(iter(names.values()))} twice"
            yield f"{' and '.join(sorted(names))} are the same image, in {where}"
