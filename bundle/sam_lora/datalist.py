"""Datalists: which cases train, validate and test, and what their labels are called."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from sam_lora.cases import stem
from sam_lora.reading import CaseError, read_npz

SECTIONS = {"training": "train", "validation": "validation", "test": "test"}  # section -> folder of npz files


def load_datalist(dataset_dir: str, datalist: str | None = None) -> dict[str, Any]:
    """Read a datalist, see :func:`list_cases`, for training and evaluation.

    Without a folder and a datalist there is no case and no name: MONAI Label hands its cases to a config's datasets.

    Raises:
        CaseError: also if a patient or a file is on two sides of the split, or two entries have one name.
    """
    if not dataset_dir and not datalist:
        return {**{section: [] for section in SECTIONS}, "labels": {}}
    cases = list_cases(dataset_dir, datalist)
    _refuse_leaks(cases)
    _refuse_names([entry for section in SECTIONS for entry in cases[section]])
    return cases


def list_cases(dataset_dir: str, datalist: str | None = None) -> dict[str, Any]:
    """Read a datalist, or make one of ``dataset_dir/{train,validation,test}/*.npz``.

    Args:
        dataset_dir: folder that the datalist's relative paths start from.
        datalist: JSON with ``training``, ``validation``, ``test`` (lists of ``{"image", "label", "patient"}``) and,
            optionally, ``labels`` (value -> name) and ``axis``, of the stored arrays, that the slices lie along: 0, 1 or
            2, the last where nobody says. An entry may have an ``axis`` of its own.

    Returns:
        The same, with absolute paths, all three lists, a ``name`` of its own for each entry, and ``labels`` with
        integer keys above 0 (empty where nobody says). An entry without ``patient`` is a patient of its own.

    Raises:
        CaseError: if the folder or file is missing or broken, or a label value has two names.
    """
    folder = Path(str(dataset_dir)).expanduser().absolute()
    if not dataset_dir or not folder.is_dir():
        raise CaseError(f"dataset_dir must be a folder with the cases, there is no {dataset_dir!r}.")
    content = read_raw_datalist(Path(str(datalist)).expanduser()) if datalist else _npz_folders(folder)
    result: dict[str, Any] = {section: _entries(content, section, folder) for section in SECTIONS}
    if not any(result.values()):
        raise CaseError(
            f"There is no case in {datalist or folder}: expected training or test entries in a datalist, or npz files "
            f"in {folder}/train and {folder}/test."
        )
    every = [entry for section in SECTIONS for entry in result[section]]
    _give_names(every, folder)
    named = content.get("labels")
    result["labels"] = _npz_labels(every) if named is None else _label_names(named, f"the datalist {datalist}")
    return result


def read_raw_datalist(path: Path) -> dict[str, Any]:
    """A datalist as it is written, with its relative paths; CaseError if it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CaseError(f"The datalist {path} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise CaseError(f"The datalist {path} must be a JSON object with training, validation and test lists.")
    for section in SECTIONS:
        for number, entry in enumerate(content.get(section) or []):
            if not isinstance(entry, Mapping) or "image" not in entry:
                raise CaseError(f'Entry {number} of {section} in {path} must be {{"image": ..., "label": ...}}.')
    return content


def _npz_folders(folder: Path) -> dict[str, Any]:
    return {
        section: [{"image": str(p), "label": str(p)} for p in sorted((folder / name).glob("*.npz"))]
        for section, name in SECTIONS.items()
    }


def _entries(content: Mapping[str, Any], section: str, folder: Path) -> list[dict[str, Any]]:
    entries = []
    shared = {"axis": content["axis"]} if "axis" in content else {}
    for entry in content.get(section) or []:
        keys = [key for key in ("image", "label", "mask") if entry.get(key)]
        keys += ["prompts"] if isinstance(entry.get("prompts"), str) else []
        paths = {key: str(folder / str(entry[key])) for key in keys}
        entries.append({**shared, **entry, **paths})
    return entries


def _refuse_leaks(sections: Mapping[str, list[dict[str, Any]]]) -> None:
    for first, second in combinations(SECTIONS, 2):
        for what, value in (
            ("Patient", lambda e: e.get("patient")),
            ("File", lambda e: str(Path(e["image"]).resolve())),
        ):
            both = {value(e) for e in sections[first]} & {value(e) for e in sections[second]} - {None}
            if both:
                raise CaseError(f"{what} {min(map(str, both))} is in {first} and in {second}; it belongs to one.")


def _refuse_names(entries: Sequence[Mapping[str, Any]]) -> None:
    """Pictures and masks of an evaluation are called by these names: none may replace another, or leave its folder."""
    for name, count in Counter(entry["name"] for entry in entries).items():
        if not isinstance(name, str) or not name.strip(".") or set(name) & set("/\\"):
            raise CaseError(f"name must be text that a file can be called, an entry of the datalist has {name!r}.")
        if count > 1:
            raise CaseError(f"{count} entries of the datalist have the name {name!r}: each needs one of its own.")


def case_names(images: Sequence[str], folder: Path) -> list[str]:
    """A name for each case, which is also its patient where nobody says: its file's, with folders if that is not unique.

    Args:
        images: of all cases of a datalist.
        folder: where relative paths start; folders above it are named for files from elsewhere only.
    """
    paths = [folder / image for image in images]
    short = Counter(map(stem, paths))
    names = []
    for path in paths:
        relative = path.relative_to(folder) if path.is_relative_to(folder) else path
        folders = [part for part in relative.parent.parts if part not in (path.anchor, "..")]
        names.append(stem(path) if short[stem(path)] == 1 else "_".join([*folders, stem(path)]))
    return names


def _give_names(entries: Sequence[dict[str, Any]], folder: Path) -> None:
    for entry, name in zip(entries, case_names([entry["image"] for entry in entries], folder), strict=True):
        entry.setdefault("name", name)
        entry.setdefault("patient", entry["name"])


def _npz_labels(entries: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Label names as the npz cases carry them, joined; CaseError where two cases name one value differently."""
    names: dict[int, str] = {}
    for path in (Path(entry["image"]) for entry in entries):
        if path.suffix == ".npz" and path.is_file():
            found = read_npz(path, ("labels",)).get("labels")
            for value, name in ({} if found is None else _label_names(str(found), f"`labels` of {path}")).items():
                if names.setdefault(value, name) != name:
                    raise CaseError(f"Value {value} is {name!r} in {path} and {names[value]!r} in another case.")
    return names


def _label_names(labels: Any, where: str) -> dict[int, str]:
    try:
        content = json.loads(labels) if isinstance(labels, str) else labels
        return {int(value): str(name) for value, name in content.items() if int(value) > 0}
    except (ValueError, AttributeError) as error:
        raise CaseError(f'{where} must map values to names, like {{"1": "spleen"}}, got {labels!r}.') from error


def label_value(label: str | int | None, labels: Mapping[int, str]) -> int | None:
    """The value of a label given by name or value; None for None.

    Raises:
        CaseError: if there is no such label; the sentence lists them.
    """
    if label is None or label == "":
        return None
    for value, name in labels.items():
        if label in (name, value, str(value)):
            return value
    if not labels and str(label).isdigit():
        return int(label)
    raise CaseError(f"label must be one of {', '.join(labels.values()) or 'the values in the masks'}, got {label!r}.")
