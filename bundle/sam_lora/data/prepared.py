"""Folders of prepared cases: what each was made of, whether it is done, and the datalist of them all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
from nibabel.filebasedimages import ImageFileError

from sam_lora.cases import CaseError, stem
from sam_lora.data.split import SECTIONS
from sam_lora.datalist import read_raw_datalist
from sam_lora.files import write_json
from sam_lora.reading import read_npz
from sam_lora.weights import file_digest


@dataclass(frozen=True)
class Origin:
    """What a case was made of; kept in the case, so that it is made anew when either changes.

    Args:
        source_digest: sha256 over image and masks.
        settings: JSON of everything else that decides what is in the case.
    """

    source_digest: str
    settings: str


@dataclass(frozen=True)
class Prepared:
    """One prepared case.

    Args:
        image: its file.
        label: its file; for npz the same.
        patient: whose it is.
        names: value -> name.
    """

    image: Path
    label: Path
    patient: str
    names: Mapping[int, str]


def origin_of(sources: Sequence[Path], settings: Mapping[str, Any]) -> Origin:
    """The origin of a case.

    Args:
        sources: image and masks; a folder stands for the files in it.
        settings: JSON types.
    """
    files = [f for s in sources for f in (sorted(p for p in s.iterdir() if p.is_file()) if s.is_dir() else [s])]
    digests = "".join(file_digest(file, "sha256") for file in files)
    return Origin(hashlib.sha256(digests.encode()).hexdigest(), json.dumps(settings, sort_keys=True))


def names_if_done(image: Path, label: Path, origin: Origin) -> dict[int, str] | None:
    """The label names of a case that is there, whole and of this origin; None if it has to be made."""
    if not (image.is_file() and label.is_file()):
        return None
    try:
        content = (
            read_npz(image, ("source_digest", "settings", "labels")) if image.suffix == ".npz" else _comment(image)
        )
    except CaseError:
        return None
    if Origin(str(content.get("source_digest")), str(content.get("settings"))) != origin:
        return None
    return {int(value): name for value, name in json.loads(str(content["labels"])).items()}


def _comment(path: Path) -> dict[str, str]:
    """What :func:`describe` left in a NIfTI file's header; CaseError if it is none."""
    try:
        for extension in nibabel.load(path).header.extensions:
            if extension.get_code() == nibabel.nifti1.extension_codes["comment"]:
                return dict(json.loads(extension.get_content()))
    except (OSError, ValueError, ImageFileError) as error:
        raise CaseError(f"{path} cannot be read as NIfTI.") from error
    return {}


def describe(origin: Origin, names: Mapping[int, str]) -> dict[str, str]:
    """What a case says of itself, npz and NIfTI alike."""
    return {"labels": json.dumps(dict(names)), "source_digest": origin.source_digest, "settings": origin.settings}


def sections_of(folder: Path) -> dict[str, str]:
    """Case -> section, as ``folder/datalist.json`` has it; a case that was split stays where it is."""
    return {stem(Path(entry["image"])): s for s, entries in _read(folder).items() if s in SECTIONS for entry in entries}


def check_section(section: str) -> str:
    """The section, if it is one; CaseError lists them where it is not."""
    if section not in SECTIONS:
        raise CaseError(f"section must be one of {', '.join(SECTIONS)}, got {section!r}.")
    return section


def add_to_datalist(folder: Path, section: str, cases: Sequence[Prepared], small_removed: bool = False) -> Path:
    """Add cases to ``folder/datalist.json``; those that are in it stay in their sections, and keep their patients.

    Args:
        folder: holds the files.
        section: of the new cases.
        cases: what was prepared.
        small_removed: small objects were removed from training cases; :mod:`sam_lora.data.split` keeps them there.

    Returns:
        The datalist.

    Raises:
        CaseError: if one value would have two names.
    """
    content = _read(folder)
    known = {stem(Path(entry["image"])): (s, entry) for s in SECTIONS for entry in content[s]}
    ours = {stem(case.image) for case in cases}
    names = {} if known.keys() <= ours else {int(v): n for v, n in content.get("labels", {}).items()}
    for case in cases:
        for value, name in case.names.items():
            if names.setdefault(value, name) != name:
                raise CaseError(
                    f"Value {value} is {name!r} in {case.image.name} and {names[value]!r} in other cases of {folder}; "
                    "give both the same --names, or another OUT."
                )
        files = {"image": case.image.name, "label": case.label.name}
        own, entry = known.get(stem(case.image), (section, None))
        if entry is None:
            entry = {**files, "patient": case.patient}
            content[section].append(entry)
        entry |= files
        entry.pop("small_removed", None)
        if small_removed and own == "training":
            entry["small_removed"] = True
    if names:
        content["labels"] = {str(value): name for value, name in sorted(names.items())}
    write_json(folder / "datalist.json", content)
    return folder / "datalist.json"


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "datalist.json"
    content = read_raw_datalist(path) if path.is_file() else {}
    return {**content, **{s: content.get(s) or [] for s in SECTIONS}}
