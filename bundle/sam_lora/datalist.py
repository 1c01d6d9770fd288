"""Datalists: which cases train, validate and test, and what their labels are called."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sam_lora.cases import CaseError, read_npz


def load_datalist(dataset_dir: str, datalist: str | None = None) -> dict[str, Any]:
    """Read a datalist, or make one of ``dataset_dir/{train,validation,test}/*.npz``.

    Args:
        dataset_dir: folder that the datalist's relative paths start from.
        datalist: JSON with ``training``, ``validation``, ``test`` (lists of ``{"image", "label", "patient"}``) and,
            optionally, ``labels`` (value -> name).

    Returns:
        The same, with absolute paths, all three lists, and ``labels`` with integer keys (empty where nobody says).

    Raises:
        CaseError: if the folder or file is missing or broken, or a patient is on both sides of the split.
    """
    folder = Path(dataset_dir).expanduser()
    if not dataset_dir or not folder.is_dir():
        raise CaseError(f"dataset_dir must be a folder with the cases, there is no {dataset_dir!r}.")
    content = _read_json(Path(datalist)) if datalist else _npz_folders(folder)
    sections = {"training": "train", "validation": "validation", "test": "test"}
    result: dict[str, Any] = {section: _entries(content, section, folder, str(datalist)) for section in sections}
    if not any(result.values()):
        raise CaseError(
            f"There is no case in {datalist or folder}: expected training or test entries in a datalist, or npz files "
            f"in {folder}/train and {folder}/test."
        )
    _refuse_leaks(result)
    named = content.get("labels") or _npz_labels([e for section in sections for e in result[section]])
    result["labels"] = {int(value): str(name) for value, name in named.items()}
    return result


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CaseError(f"The datalist {path} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise CaseError(f"The datalist {path} must be a JSON object with training, validation and test lists.")
    return content


def _npz_folders(folder: Path) -> dict[str, Any]:
    names = {"training": "train", "validation": "validation", "test": "test"}
    return {
        section: [{"image": str(p), "label": str(p)} for p in sorted((folder / name).glob("*.npz"))]
        for section, name in names.items()
    }


def _entries(content: Mapping[str, Any], section: str, folder: Path, source: str) -> list[dict[str, Any]]:
    entries = []
    for number, entry in enumerate(content.get(section) or []):
        if not isinstance(entry, Mapping) or "image" not in entry:
            raise CaseError(f'Entry {number} of {section} in {source} must be {{"image": ..., "label": ...}}.')
        paths = {key: str(folder / str(entry[key])) for key in ("image", "label") if entry.get(key)}
        entries.append({**entry, **paths})
    return entries


def _refuse_leaks(sections: Mapping[str, list[dict[str, Any]]]) -> None:
    train = {str(e["patient"]) for e in sections["training"] if "patient" in e}
    for section in ("validation", "test"):
        both = train & {str(e["patient"]) for e in sections[section] if "patient" in e}
        if both:
            raise CaseError(f"Patient {sorted(both)[0]} is in training and in {section}; a patient belongs to one.")


def _npz_labels(entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Label names as the npz cases carry them, joined."""
    names: dict[str, str] = {}
    for path in (Path(entry["image"]) for entry in entries):
        if path.suffix == ".npz" and path.is_file():
            names |= json.loads(str(read_npz(path, ("labels",)).get("labels", "{}")))
    return names
