"""What is in a datalist and what is wrong with it: measurements, and problems as sentences."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sam_lora.adapter import DEFAULT_INTENSITY
from sam_lora.cases import CaseError, intensity_range, is_ready, read_array, read_label, to_uint8
from sam_lora.data.split import SECTIONS
from sam_lora.data.work import do_all
from sam_lora.grids import difference, same_place
from sam_lora.plots import outline

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
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(0))  # shares of the voxels, least to largest
    window: tuple[float, float] = (0.0, 0.0)  # what becomes 0 and 255
    clipped: tuple[float, float] = (0.0, 0.0)  # shares of the voxels below and above the window
    content: str = ""  # digest of the image's voxels
    volumes: dict[int, float] = field(default_factory=dict)  # label value -> how much of it, in
    unit: str = "ml"  # or pixels, where nothing says how large they are
    slice: int = 0  # the one with most label, from 0, and
    picture: np.ndarray | None = None  # how it looks, with outlines: (H, W, 3), uint8
    problems: list[str] = field(default_factory=list)


def inspect_datalist(
    cases: Mapping[str, Any], intensity: Mapping[str, list[float]], processes: int
) -> tuple[list[CaseReport], list[str]]:
    """Look at every case of a datalist.

    Args:
        cases: see :func:`sam_lora.datalist.list_cases`.
        intensity: what the images will go through, see :func:`sam_lora.cases.to_uint8`.
        processes: how many cases at once.

    Returns:
        A report per case, and the problems between cases.
    """
    jobs = [(entry, section) for section in SECTIONS for entry in cases[section]]
    look = partial(_inspect, labels=cases["labels"], intensity=intensity)
    reports = []
    for (entry, section), found in zip(jobs, do_all(jobs, look, processes), strict=True):
        if isinstance(found, Exception):
            found = CaseReport(str(entry["name"]), section, str(entry["patient"]), problems=[str(found)])
        reports.append(found)
    return reports, list(across_cases(reports))


def _inspect(job: tuple[Mapping[str, Any], str], labels: Mapping[int, str], intensity: Any) -> CaseReport:
    return inspect_case(*job, labels, intensity)


def inspect_case(
    entry: Mapping[str, Any], section: str, labels: Mapping[int, str], intensity: Mapping[str, Any] = DEFAULT_INTENSITY
) -> CaseReport:
    """Look at one case; what is wrong with it is in its report, never raised.

    Args:
        entry: of a datalist, with absolute paths.
        section: it is in.
        labels: value -> name; a value without a name is a problem where any are named.
        intensity: what the image will go through; npz cases and 8 bit pictures have been through it.
    """
    report = CaseReport(str(entry["name"]), section, str(entry["patient"]))
    try:
        array, meta = read_array(Path(entry["image"]), "imgs")
        ready = is_ready(array, Path(entry["image"]))
        if not meta["has_spacing"]:
            report.unit = "pixels"
        shown = _look_at_image(report, array, meta["affine"], {"window": [127.5, 255]} if ready else intensity)
        if entry.get("label"):
            _look_at_label(report, entry, shown, meta["affine"], labels)
        else:
            report.problems.append("it has no label")
    except CaseError as error:
        report.problems.append(str(error))
    return report


def _look_at_image(
    report: CaseReport, array: np.ndarray, affine: np.ndarray, intensity: Mapping[str, Any]
) -> np.ndarray:
    """Measure an image; returns it as uint8."""
    report.shape = array.shape
    report.spacing = tuple(float(v) for v in np.linalg.norm(affine[:3, :3], axis=0))
    digest = hashlib.sha256(f"{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    report.content = digest.hexdigest()
    finite = np.isfinite(array)
    if not finite.all():
        report.problems.append(f"{int((~finite).sum())} of {finite.size} voxels are NaN or infinite")
        array = np.where(finite, array, 0)
    report.intensities = tuple(float(v) for v in np.percentile(array, [0, 50, 100]))  # type: ignore[assignment]
    least, _, largest = report.intensities
    report.histogram = np.histogram(array, 64)[0] / array.size
    if least == largest:
        report.problems.append("the image has one value everywhere")
    report.window = intensity_range(array, intensity)
    below, above = ((array < report.window[0]).mean(), (array > report.window[1]).mean())
    report.clipped = float(below), float(above)
    if least < largest and max(least, report.window[0]) >= min(largest, report.window[1]):
        report.problems.append("all of the image is outside the window: it would be one grey")
    return to_uint8(array, intensity)


def _look_at_label(
    report: CaseReport, entry: Mapping[str, Any], shown: np.ndarray, affine: np.ndarray, labels: Mapping[int, str]
) -> None:
    path = Path(entry["label"])
    label = read_label(path, shown.shape[:3], Path(entry["image"]), None)
    other = read_array(path, "gts")[1]
    if report.unit == "ml" and other["has_spacing"] and not same_place(label.shape, affine, other["affine"]):
        report.problems.append(f"image and mask have different geometry: {difference(affine, other['affine'])}")
    values, counts = np.unique(label[label > 0], return_counts=True)
    size = 1 if report.unit == "pixels" else abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    report.volumes = {int(v): int(n) * size for v, n in zip(values, counts, strict=True)}
    if not len(values):
        report.problems.append("the mask is empty")
    for value, count in zip(values, counts, strict=True):
        if labels and int(value) not in labels:
            report.problems.append(f"value {value} has no name in the datalist")
        if count < TINY:
            report.problems.append(f"{labels.get(int(value), value)} has only {count} voxel{'s' if count > 1 else ''}")
    k = report.slice = int((label > 0).sum((0, 1)).argmax())
    report.picture = outline(np.ascontiguousarray(np.swapaxes(shown[:, :, k], 0, 1)), label[:, :, k].T)


def across_cases(reports: Sequence[CaseReport]) -> Iterator[str]:
    """Problems between cases: one patient, or one image, on two sides of the split."""
    patients: dict[str, set[str]] = {}
    contents: dict[str, dict[str, str]] = {}
    for report in reports:
        patients.setdefault(report.patient, set()).add(report.section)
        if report.content:
            contents.setdefault(report.content, {})[report.name] = report.section
    for patient, sections in sorted(patients.items()):
        if len(sections) > 1:
            yield f"patient {patient} is in {' and in '.join(s for s in SECTIONS if s in sections)}"
    for names in contents.values():
        if len(names) > 1:
            where = "two sections" if len(set(names.values())) > 1 else f"{next(iter(names.values()))} twice"
            yield f"{' and '.join(sorted(names))} are the same image, in {where}"
