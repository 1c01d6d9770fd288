"""CT and MR with masks, from any format, into npz cases or NIfTI, and a datalist."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from sam_lora.adapter import DEFAULT_INTENSITY
from sam_lora.cases import CaseError, read_array, read_label, to_uint8, write_nifti
from sam_lora.data.labels import LabelRules
from sam_lora.data.pairs import VOLUMES, Pair, find_files, is_dicom, pair_up
from sam_lora.data.patients import dicom_patient
from sam_lora.data.prepared import (
    Origin,
    Prepared,
    add_to_datalist,
    check_section,
    describe,
    names_if_done,
    origin_of,
    sections_of,
)
from sam_lora.data.work import run_jobs
from sam_lora.dicom_seg import is_seg, read_seg
from sam_lora.files import writable_folder, write_aside
from sam_lora.reading import series_files

# level and width in HU
WINDOWS = {
    "soft_tissue": (40, 400),
    "lung": (-600, 1500),
    "brain": (40, 80),
    "bone": (400, 1800),
    "mediastinum": (50, 350),
}


@dataclass(frozen=True)
class CaseJob:
    """One case to prepare.

    Args:
        pair: image and mask.
        output: folder for the case's file.
        intensity: see :func:`sam_lora.cases.to_uint8`.
        rules: for the label map.
        names: value -> name.
        for_training: see :meth:`LabelRules.apply`.
        as_nifti: write image and label as NIfTI, raw intensities kept, instead of an npz case.
    """

    pair: Pair
    output: Path
    intensity: Mapping[str, list[float]]
    rules: LabelRules
    names: Mapping[int, str] = field(default_factory=dict)
    for_training: bool = True
    as_nifti: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the content of the case beside its sources."""
        rules = self.rules if self.for_training else replace(self.rules, min_volume=0, min_area=0)
        intensity = None if self.as_nifti else dict(self.intensity)
        return {"intensity": intensity, "rules": asdict(rules), "names": dict(self.names)}

    @property
    def files(self) -> tuple[Path, Path]:
        """Where image and label go; one file for npz."""
        if self.as_nifti:
            return self.output / f"{self.pair.name}.nii.gz", self.output / f"{self.pair.name}_label.nii.gz"
        return (self.output / f"{self.pair.name}.npz",) * 2


def window_of(modality: str, window: str | tuple[float, float] | None) -> dict[str, list[float]]:
    """The intensity setting of a modality.

    Args:
        modality: "CT" needs a window; "MR" and others are taken by percentiles.
        window: a preset's name, "LEVEL,WIDTH", or the two numbers.

    Raises:
        CaseError: if the modality is unknown, CT has no window, or the window is none.
    """
    if modality not in ("CT", "MR"):
        raise CaseError(f"modality must be CT or MR (for everything else), got {modality!r}.")
    if window is None:
        if modality == "CT":
            raise CaseError(f"CT needs a window: --window LEVEL,WIDTH or one of {', '.join(WINDOWS)}.")
        return DEFAULT_INTENSITY
    numbers = (WINDOWS.get(window) or window.split(",")) if isinstance(window, str) else window
    try:
        level, width = (float(v) for v in numbers)
    except (TypeError, ValueError) as error:
        raise CaseError(f"window must be LEVEL,WIDTH or one of {', '.join(WINDOWS)}, got {window!r}.") from error
    if not np.isfinite([level, width]).all() or width <= 0:
        raise CaseError(f"window must have a finite level and a width above 0, got {level:g},{width:g}.")
    return {"window": [level, width]}


def prepare_case(job: CaseJob) -> Prepared:
    """Read one case, change its labels, write it; one that is there, made of the same with the same settings, stays.

    Raises:
        CaseError: naming the file.
    """
    image_file, label_file = job.files
    origin = origin_of([job.pair.image, *job.pair.labels], job.settings)
    names = names_if_done(image_file, label_file, origin)
    if names is None:
        names = _prepare(job, origin)
    patient = dicom_patient(job.pair.image) or job.pair.name
    return Prepared(image_file, label_file, patient, names)


def _prepare(job: CaseJob, origin: Origin) -> dict[int, str]:
    array, meta = read_array(job.pair.image, "imgs")
    if array.ndim == 4:
        raise CaseError(f"{job.pair.image} is in colour; use `data.py images` for pictures.")
    if "percentiles" in job.intensity and not job.as_nifti and _modality(job.pair.image) == "CT":
        raise CaseError(f"{job.pair.image} is CT, as its DICOM header says: give --modality CT and a --window.")
    (mask,) = job.pair.labels
    names = dict(job.names)
    if is_seg(mask):
        label, found = read_seg(mask, job.pair.image, meta["affine"])
        label, names = _by_name(label, found, names, mask) if names else (label, found)
        if label.shape != array.shape:
            raise CaseError(f"{job.pair.image} has shape {array.shape}, {mask} has {label.shape}; they must be equal.")
    else:
        label = read_label(mask, array.shape, job.pair.image, meta, turn=True)
    label, names = job.rules.apply(label, names, job.for_training)
    if not label.any():
        raise CaseError(f"{mask} has no object left after the label rules.")
    image_file, label_file = job.files
    if job.as_nifti:
        image_file.unlink(missing_ok=True)  # the image says what the case was made of: the old one must not stand for
        write_nifti(label_file, label, meta["affine"])  # the new label, even for the moment between the two
        write_nifti(image_file, array, meta["affine"], json.dumps(describe(origin, names)))
        return names
    try:
        volume = to_uint8(array, job.intensity)
    except CaseError as error:
        raise CaseError(f"{job.pair.image}: {error}") from error
    with write_aside(image_file) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            imgs=_k_j_i(volume),
            gts=_k_j_i(label),
            spacing=np.linalg.norm(meta["affine"][:3, :3], axis=0),
            affine=meta["affine"],
            **describe(origin, names),
        )
    return names


def _modality(image: Path) -> str:
    """The Modality tag of a DICOM file or of a series' folder; empty for other files."""
    path = Path(series_files(image)[0]) if image.is_dir() else image
    return (
        str(pydicom.dcmread(path, specific_tags=["Modality"], stop_before_pixels=True, force=True).get("Modality", ""))
        if is_dicom(path)
        else ""
    )


def _by_name(
    label: np.ndarray, found: Mapping[int, str], names: Mapping[int, str], path: Path
) -> tuple[np.ndarray, dict[int, str]]:
    """Segments numbered as ``names`` has them: their own numbers differ from one SEG to the next."""
    values = {name: value for value, name in names.items()}
    missing = [name for name in found.values() if name not in values]
    if missing:
        raise CaseError(f"{path} has the segment {missing[0]!r}, which names does not have: {', '.join(values)}.")
    lookup = np.zeros(max(found) + 1, np.uint8 if max(names) < 256 else np.int32)
    lookup[list(found)] = [values[name] for name in found.values()]
    return lookup[label], dict(names)


def _k_j_i(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, (0, 1, 2), (2, 1, 0))


def prepare(  # noqa: PLR0913  each argument is an option of the command
    images: str,
    labels: str,
    output: Path,
    intensity: Mapping[str, list[float]],
    rules: LabelRules,
    names: Mapping[int, str],
    section: str,
    as_nifti: bool,
    processes: int,
) -> Path:
    """Prepare all cases and write ``datalist.json``.

    Args:
        images: folder, pattern or file; see :func:`sam_lora.data.pairs.find_files`.
        labels: likewise.
        output: folder for the cases.
        intensity: see :func:`sam_lora.cases.to_uint8`.
        rules: for the label maps; sizes are used for cases that train only, wherever the datalist has them by now.
        names: value -> name.
        section: "training", "validation" or "test": where the cases go in the datalist.
        as_nifti: NIfTI with raw intensities instead of npz.
        processes: how many cases at once.

    Returns:
        The datalist.

    Raises:
        CaseError: if nothing is found or images and masks do not pair.
        ValueError: after all, if some cases failed; the datalist holds the others.
    """
    check_section(section)
    writable_folder(output, "OUT")
    pairs = pair_up(find_files(images, VOLUMES), find_files(labels, VOLUMES))
    before = sections_of(output)
    jobs = [
        CaseJob(p, output, intensity, rules, names, before.get(p.name, section) == "training", as_nifti) for p in pairs
    ]
    done, failure = run_jobs(jobs, prepare_case, _name, output, processes)
    path = add_to_datalist(output, section, list(done.values()), small_removed=rules.removes_small)
    if failure:
        raise ValueError(failure)
    return path


def _name(job: CaseJob) -> str:
    return job.pair.name
