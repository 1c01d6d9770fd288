"""Any medical image in, one datalist out: prepare, convert, split and inspect cases."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from sam_lora.cases import CaseError
from sam_lora.cli import run
from sam_lora.data import convert as conversion
from sam_lora.data import ct_mr as volumes
from sam_lora.data import pictures, sources
from sam_lora.data.inspection import inspect_datalist
from sam_lora.data.inspection_page import write_inspection
from sam_lora.data.labels import LabelRules
from sam_lora.data.patients import Patients, labels_shown, read_patients
from sam_lora.data.split import SECTIONS, split_datalist
from sam_lora.data.transfer import transfer
from sam_lora.datalist import list_cases, read_raw_datalist
from sam_lora.files import write_json

PROCESSES = os.cpu_count() or 1


def ct_mr(  # noqa: PLR0913  a command has options
    images: str, labels: str, out: str, modality: str = "MR", window: Any = None, format: str = "npz",  # noqa: A002
    section: str = "training", names: Any = None, keep: Any = (), drop: Any = (), merge: Any = None, rename: Any = None,
    split: str | None = None, min_volume: int = 0, min_area: int = 0, processes: int = PROCESSES,
) -> None:  # fmt: skip
    """Prepare CT or MR volumes with masks: NIfTI, NRRD, MHA, DICOM series; masks in these or DICOM SEG.

    Args:
        images: folder, pattern or file.
        labels: likewise; same names, or one the beginning of the other.
        out: folder for the cases and datalist.json.
        modality: CT (needs a window) or MR, for MR and everything else (percentiles).
        window: soft_tissue, lung, brain, bone, mediastinum, or LEVEL,WIDTH.
        format: npz, or nifti with raw intensities.
        section: training, validation or test.
        names: {"1": "spleen"} or a JSON file of it.
        keep: labels that stay, by value or name.
        drop: labels that become background.
        merge: {"kidneys": ["left kidney", "right kidney"]}.
        rename: {"3": "liver"}.
        split: label whose connected parts become objects of their own.
        min_volume: training objects with fewer voxels are removed.
        min_area: likewise in each slice, in pixels.
        processes: how many cases at once.
    """
    if format not in ("npz", "nifti"):
        raise CaseError(f"format must be npz or nifti, got {format!r}.")
    rules = LabelRules(_texts(keep), _texts(drop), _mapping(merge, "merge"), _mapping(rename, "rename"),
                       None if split is None else str(split), min_volume, min_area)  # fmt: skip
    intensity = volumes.window_of(str(modality), _window(window))
    print(
        volumes.prepare(
            str(images),
            str(labels),
            Path(str(out)),
            intensity,
            rules,
            _names(names),
            section,
            format == "nifti",
            processes,
        )
    )


def images(
    images: str, masks: str, out: str, names: Any = None, colors: str | None = None, several: bool = False,
    section: str = "training", processes: int = PROCESSES,
) -> None:  # fmt: skip
    """Prepare pictures with masks: PNG, JPG, TIFF, BMP; grey, colour, palette, 16 bits, pages.

    Args:
        images: folder, pattern or file.
        masks: likewise.
        out: folder for the cases and datalist.json.
        names: {"1": "nerve"} or a JSON file of it.
        colors: JSON file [{"color": [r, g, b], "value": 1, "name": "nerve"}] for colour-coded masks.
        several: masks are one per object, their names beginning with the image's.
        section: training, validation or test.
        processes: how many at once.
    """
    table, found = _colours(colors)
    print(
        pictures.prepare_pictures(
            str(images), str(masks), Path(str(out)), table, found | _names(names), section, several, processes
        )
    )


def convert(source: str, target: str, overwrite: bool = False) -> None:
    """Convert one file: DICOM series, MHD, NRRD to NIfTI; nii to nii.gz; JPG, TIFF to PNG; run lengths (JSON) to PNG.

    Args:
        source: file, or folder with one DICOM series.
        target: file; its ending is the format.
        overwrite: replace a file that is there.
    """
    for path in conversion.convert(Path(str(source)), Path(str(target)), overwrite):
        print(path)


def split(  # noqa: PLR0913  a command has options
    datalist: str, ratios: Any = (0.8, 0.1, 0.1), folds: int = 0, fold: int = 0, seed: int = 0, pattern: str | None = None,
    table: str | None = None, column: str = "patient", stratify: Any = None, copy: bool = False, link: bool = False,
    processes: int = 1,
) -> None:  # fmt: skip
    """Split a datalist's cases into training, validation and test, by patient.

    Cases that were split before, or put into validation or test by hand (--section), stay where they are.

    The patient is the datalist's own, else the PatientID of a DICOM image, unless a pattern or a table says otherwise.

    Args:
        datalist: JSON; it is rewritten.
        ratios: shares of training, validation and test.
        folds: cross-validation: validation is one fold of this many.
        fold: which one, from 0.
        seed: of the order.
        pattern: regular expression that finds the patient in an image's path, from the datalist on.
        table: CSV whose first column names the image, and another its patient.
        column: of the table that holds the patient.
        stratify: balance the presence of all labels, or of A,B (values or names), between the sections.
        copy: also copy the files into train, validation, test.
        link: likewise, by links.
        processes: how many labels are read at once, to stratify.
    """
    path = Path(str(datalist))
    content, start = read_raw_datalist(path), path.absolute().parent
    if pattern is not None and table is not None:
        raise CaseError("pattern and table both say who is the patient; give one.")
    patients = Patients(str(pattern)) if pattern is not None else Patients()
    if table is not None:
        patients = Patients(None, read_patients(Path(str(table)), str(column)), column)
    if not isinstance(ratios, list | tuple) or not all(isinstance(r, int | float) for r in ratios) or len(ratios) != 3:
        raise CaseError(f"ratios must be three numbers, like 0.8,0.1,0.1, got {ratios!r}.")
    shown = _shown(content, start, stratify, processes) if stratify else None
    content = split_datalist(content, start, patients, ratios, folds, fold, seed, shown)
    if copy or link:
        content = transfer(content, start, by_link=link)
    write_json(path, content)
    print(", ".join(f"{section} {len(content[section])}" for section in SECTIONS))


def _shown(content: Any, start: Path, stratify: Any, processes: int) -> dict[str, frozenset[str]]:
    """Image -> labels in it, of those to stratify by."""
    entries = [e for section in SECTIONS for e in content.get(section) or []]
    shown = dict(zip([str(e["image"]) for e in entries], labels_shown(entries, start, processes), strict=True))
    if stratify is True:
        return shown
    there = {v: v for labels in shown.values() for v in labels}
    names = there | {str(name): str(value) for value, name in (content.get("labels") or {}).items()}
    missing = [one for one in _texts(stratify) if one not in names]
    if missing:
        raise CaseError(f"There is no label {missing[0]!r} to stratify by; there are {', '.join(sorted(names))}.")
    wanted = {names[one] for one in _texts(stratify)}
    return {image: labels & wanted for image, labels in shown.items()}


def inspect(
    datalist: str, dataset_dir: str | None = None, report: str | None = None, window: Any = None,
    processes: int = PROCESSES,
) -> None:  # fmt: skip
    """Measure every case of a datalist and say what is wrong; exit code 1 if something is.

    Args:
        datalist: JSON.
        dataset_dir: where its relative paths start; its own folder by default.
        report: HTML page to write.
        window: of CT that is not prepared yet, as in ct_mr; by default percentiles, as for MR.
        processes: how many cases at once.
    """
    datalist = str(datalist)
    start = Path(str(dataset_dir or Path(datalist).parent)).expanduser().absolute()
    cases = list_cases(str(start), datalist)
    intensity = volumes.window_of("MR" if window is None else "CT", _window(window))
    reports, between = inspect_datalist(cases, intensity, processes)
    for one in reports:
        one.problems = [problem.replace(f"{start}/", "") for problem in one.problems]
    if report:
        write_inspection(Path(str(report)), Path(datalist).name, reports, between, cases["labels"])
        print(report)
    problems = [f"{r.name}: {p}" for r in reports for p in r.problems] + between
    print("\n".join(problems) or f"{len(reports)} cases, no problem found")
    if problems:
        raise CaseError(f"{len(problems)} problems in {len(reports)} cases.")


def decathlon(task: str, out: str) -> None:
    """Make the datalist of a Decathlon task, fetching it where there is a network.

    Args:
        task: such as Task04_Hippocampus, or a folder with a dataset.json (Decathlon, nnU-Net) or datastore_v2.json.
        out: folder of the data; datalist.json is written beside the task's files.
    """
    task, out = str(task), str(out)
    folder = Path(task)
    if (folder / "datastore_v2.json").is_file():
        content, start = sources.from_monailabel(folder), folder
    elif (folder / "dataset.json").is_file():
        content, start = sources.from_dataset_json(folder), folder
    else:
        content, start = sources.fetch_decathlon(task, Path(out)), Path(out) / task
    Path(out).mkdir(parents=True, exist_ok=True)
    print(sources.write_datalist(content, Path(out) / "datalist.json", start))


def _window(value: Any) -> Any:
    """A window as fire hands it over: a name, or numbers."""
    return tuple(value) if isinstance(value, list) else value


def _texts(value: Any) -> tuple[str, ...]:
    """One label or several, as fire hands them over: names with spaces come as one text."""
    values = value if isinstance(value, list | tuple) else str(value).split(",")
    return tuple(str(v).strip() for v in values)


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict | None):
        raise CaseError(f'{name} must be like {{"new": ["a", "b"]}} or {{"old": "new"}}, got {value!r}.')
    return {
        str(k): [str(x) for x in v] if isinstance(v, list | tuple) else v if isinstance(v, dict) else str(v)
        for k, v in (value or {}).items()
    }


def _names(value: Any) -> dict[int, str]:
    content = _json(str(value)) if isinstance(value, str | int) else value
    try:
        return {int(k): str(v) for k, v in (content or {}).items()}
    except (ValueError, AttributeError) as error:
        raise CaseError(f'names must map values to names, like {{"1": "spleen"}}, got {value!r}.') from error


def _colours(path: str | None) -> tuple[dict[tuple[int, int, int], int], dict[int, str]]:
    rows = [] if path is None else _json(path)
    try:
        table = {(int(r["color"][0]), int(r["color"][1]), int(r["color"][2])): int(r["value"]) for r in rows}
        return table, {int(r["value"]): str(r["name"]) for r in rows if "name" in r}
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CaseError(f'{path} must be a list of {{"color": [r, g, b], "value": 1, "name": "nerve"}}.') from error


def _json(path: str) -> Any:
    try:
        return json.loads(Path(str(path)).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CaseError(f"{path} cannot be read as JSON: {error}.") from error


COMMANDS = {
    "ct_mr": ct_mr,
    "images": images,
    "convert": convert,
    "split": split,
    "inspect": inspect,
    "decathlon": decathlon,
}

if __name__ == "__main__":
    run(COMMANDS, "data.py")
