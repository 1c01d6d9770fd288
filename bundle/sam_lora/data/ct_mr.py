"""CT and MR with masks, from any format, into npz cases or NIfTI, and a datalist."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sam_lora.adapter import DEFAULT_INTENSITY
from sam_lora.cases import CaseError, read_array, read_label, stem, to_uint8, write_mask
from sam_lora.data.labels import LabelRules
from sam_lora.data.pairs import VOLUMES, Pair, find_files, pair_up
from sam_lora.data.split import SECTIONS
from sam_lora.data.work import run_jobs
from sam_lora.datalist import read_raw_datalist
from sam_lora.dicom_seg import is_seg, read_seg
from sam_lora.files import writable_folder, write_aside, write_json

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
    if width <= 0:
        raise CaseError(f"window must have a width above 0, got {width:g}.")
    return {"window": [level, width]}


def prepare_case(job: CaseJob) -> None:
    """Read one case, change its labels, write it; a case whose files are there is left as it is.

    Raises:
        CaseError: naming the file.
    """
    image_file, label_file = job.files
    if image_file.is_file() and label_file.is_file():
        return
    array, meta = read_array(job.pair.image, "imgs")
    if array.ndim == 4:
        raise CaseError(f"{job.pair.image} is in colour; use `data.py images` for pictures.")
    (mask,) = job.pair.labels
    names = dict(job.names)
    if is_seg(mask):
        label, found = read_seg(mask, job.pair.image, meta["affine"])
        names = found | names
    else:
        label = read_label(mask, array.shape, job.pair.image)
    label, names = job.rules.apply(label, names, job.for_training)
    if not label.any():
        raise CaseError(f"{mask} has no object left after the label rules.")
    if job.as_nifti:
        write_mask(label_file.with_name(stem(label_file)), _k_j_i(label), meta["affine"], Path("volume.nii"))
        write_mask(image_file.with_name(stem(image_file)), _k_j_i(array), meta["affine"], Path("volume.nii"))
        return
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
            labels=json.dumps(names),
            intensity=json.dumps(dict(job.intensity)),
        )


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
        rules: for the label maps; sizes are used for "training" only.
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
    jobs = [CaseJob(p, output, intensity, rules, names, section == "training", as_nifti) for p in pairs]
    try:
        run_jobs(jobs, prepare_case, _name, output, processes)
    finally:
        path = add_to_datalist(
            output, section, [job.files for job in jobs if all(f.is_file() for f in job.files)], names
        )
    return path


def _name(job: CaseJob) -> str:
    return job.pair.name


def check_section(section: str) -> str:
    """The section, if it is one; CaseError lists them where it is not."""
    if section not in SECTIONS:
        raise CaseError(f"section must be one of {', '.join(SECTIONS)}, got {section!r}.")
    return section


def add_to_datalist(folder: Path, section: str, files: list[tuple[Path, Path]], names: Mapping[int, str]) -> Path:
    """Add cases to ``folder/datalist.json``; those that are in it stay in their sections.

    Args:
        folder: holds the files.
        section: of the new cases.
        files: image and label of each case.
        names: value -> name; for npz the cases carry their own.
    """
    path = folder / "datalist.json"
    content = read_raw_datalist(path) if path.is_file() else {s: [] for s in SECTIONS}
    known = {entry["image"] for s in SECTIONS for entry in content.get(s, [])}
    for image, label in files:
        if image.name not in known:
            content[section].append({"image": image.name, "label": label.name, "patient": stem(image)})
    if names:
        content["labels"] = {**content.get("labels", {}), **{str(v): n for v, n in names.items()}}
    write_json(path, content)
    return path
