"""Datalists of others: a Decathlon task, an MSD or nnU-Net dataset.json, a MONAI Label datastore folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.apps import DecathlonDataset

from sam_lora.cases import CaseError
from sam_lora.data.split import SECTIONS
from sam_lora.datalist import read_raw_datalist
from sam_lora.files import write_json


def from_dataset_json(folder: Path) -> dict[str, Any]:
    """A datalist of a Medical Segmentation Decathlon or nnU-Net folder.

    Args:
        folder: with ``dataset.json`` and ``imagesTr``, ``labelsTr``.

    Returns:
        A datalist, paths relative to the folder, everything with a label under "training".

    Raises:
        CaseError: if there is no such file, or it names no training case.
    """
    path = folder / "dataset.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CaseError(f"{path} cannot be read as a dataset of Decathlon or nnU-Net: {error}.") from error
    if not isinstance(content, dict):
        raise CaseError(f"{path} cannot be read as a dataset of Decathlon or nnU-Net: it is no JSON object.")
    listed = content.get("training")
    entries = [_decathlon(e) for e in listed] if isinstance(listed, list) else _nnunet(folder, content)
    if not entries:
        raise CaseError(f"{path} names no training case.")
    return {"training": entries, "validation": [], "test": [], "labels": _label_names(content.get("labels", {}))}


def _decathlon(entry: Mapping[str, str]) -> dict[str, str]:
    image = entry["image"].removeprefix("./")
    return {"image": image, "label": entry["label"].removeprefix("./"), "patient": Path(image).name.split(".")[0]}


def _nnunet(folder: Path, content: Mapping[str, Any]) -> list[dict[str, str]]:
    """nnU-Net v2 lists nothing: ``imagesTr/CASE_0000.ending`` belongs to ``labelsTr/CASE.ending``; channel 0 is taken."""
    ending = content.get("file_ending", ".nii.gz")
    entries = []
    for label in sorted((folder / "labelsTr").glob(f"*{ending}")):
        case = label.name.removesuffix(ending)
        entries.append({"image": f"imagesTr/{case}_0000{ending}", "label": f"labelsTr/{label.name}", "patient": case})
    return entries


def _label_names(labels: Mapping[str, Any]) -> dict[str, str]:
    """MSD maps value -> name, nnU-Net v2 name -> value."""
    pairs = [(k, v) if str(k).isdigit() else (v, k) for k, v in labels.items()]
    return {str(value): str(name) for value, name in pairs if str(value).isdigit() and int(value) > 0}


def from_monailabel(folder: Path) -> dict[str, Any]:
    """A datalist of a MONAI Label datastore: images with a label tagged "final".

    Args:
        folder: with ``datastore_v2.json`` and ``labels/final``.

    Raises:
        CaseError: if there is no such datastore, no image has a final label, or a value has two names.
    """
    path = folder / "datastore_v2.json"
    try:
        objects = json.loads(path.read_text(encoding="utf-8"))["objects"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CaseError(f"{path} cannot be read as a MONAI Label datastore: {error}.") from error
    entries: list[dict[str, str]] = []
    names: dict[str, str] = {}
    for name, item in sorted(objects.items()):
        final = item.get("labels", {}).get("final")
        if final:
            ending = item["image"]["ext"]
            label = f"labels/final/{name}{final['ext']}"
            entries.append({"image": f"{name}{ending}", "label": label, "patient": _patient(item, name)})
            for value, title in _values(final.get("info", {}).get("label_info") or [], label):
                if names.setdefault(value, title) != title:
                    raise CaseError(f"Value {value} is {title!r} in {label} and {names[value]!r} before in {path}.")
    if not entries:
        raise CaseError(f"{path} has no image with a final label.")
    return {"training": entries, "validation": [], "test": [], "labels": names}


def _values(label_info: Sequence[Mapping[str, Any]], where: str) -> list[tuple[str, str]]:
    """Values and names of a label: ``idx`` where it is given, else in order from 1."""
    try:
        return [(str(int(e.get("idx", n))), str(e["name"])) for n, e in enumerate(label_info, 1) if "name" in e]
    except (AttributeError, TypeError, ValueError) as error:
        raise CaseError(f'label_info of {where} must be a list of {{"name": ..., "idx": 1}}: {error}.') from error


def _patient(item: Mapping[str, Any], name: str) -> str:
    return str(item["image"].get("info", {}).get("patient_id") or name)


def fetch_decathlon(task: str, folder: Path) -> dict[str, Any]:
    """Download a Decathlon task with MONAI, unless it is in ``folder``, and make its datalist.

    Args:
        task: such as "Task04_Hippocampus".
        folder: where the task's folder is or goes.

    Raises:
        CaseError: if the task is unknown or cannot be fetched.
    """
    if not re.fullmatch(r"Task\d\d_\w+", task) or task not in DecathlonDataset.resource:
        raise CaseError(f"task must be one of {', '.join(sorted(DecathlonDataset.resource))}, got {task!r}.")
    if not (folder / task / "dataset.json").is_file():
        try:
            DecathlonDataset(str(folder), task, "training", download=True, cache_rate=0.0)
        except (OSError, RuntimeError) as error:
            raise CaseError(f"{task} could not be fetched ({error}); put its folder into {folder}.") from error
    return from_dataset_json(folder / task)


def write_datalist(content: Mapping[str, Any], path: Path, start: Path) -> Path:
    """Write a datalist, or add it to the one that is there: what that lists stays as it is, in its section.

    Args:
        content: a datalist whose relative paths start in ``start``.
        path: where to; its paths become absolute where this is in another folder.
        start: folder of the source.

    Returns:
        ``path``.

    Raises:
        CaseError: if what is there is no datalist, or one value would have two names.
    """
    before = read_raw_datalist(path) if path.is_file() else {}
    result = {**before, **{s: list(before.get(s) or []) for s in SECTIONS}}
    known = {str({**e, **e.get("copied_from", {})}["image"]) for s in SECTIONS for e in result[s]}
    found = [(s, _placed(e, path, start)) for s in SECTIONS for e in content.get(s, [])]
    for section, entry in found:
        if entry["image"] not in known:
            result[section].append(entry)
    labels = {} if known <= {e["image"] for _, e in found} else dict(before.get("labels") or {})
    for value, name in content["labels"].items():
        if labels.setdefault(value, name) != name:
            raise CaseError(f"Value {value} is {name!r} in {start} and {labels[value]!r} in {path}; give another OUT.")
    write_json(path, {**result, "labels": labels})
    return path


def _placed(entry: Mapping[str, Any], path: Path, start: Path) -> dict[str, Any]:
    if path.parent.resolve() == start.resolve():
        return dict(entry)
    return {**entry, **{key: str((start / entry[key]).resolve()) for key in ("image", "label") if key in entry}}
