"""Folders of prepared cases: what each was made of, whether it is done, and the datalist of them all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import nibabel
from nibabel.filebasedimages import ImageFileError

from sam_lora.cases import CaseError, stem
from sam_lora.data.split import SECTIONS
from sam_lora.data.work import FAILURES
from sam_lora.datalist import read_raw_datalist
from sam_lora.files import write_json
from sam_lora.reading import read_npz
from sam_lora.weights import file_digest

ANOTHER = "of another source"


@dataclass(frozen=True)
class Origin:
    """What a case was made of; kept in the case, so that it is made anew when either changes.

    Args:
        source_digest: sha256 over image and masks.
        settings: JSON of everything else that decides what is in the case.
        sources: image and masks.
    """

    source_digest: str
    settings: str
    sources: tuple[Path, ...] = field(default=(), compare=False)

    @property
    def place(self) -> str:
        """sha256 of where the image lies: tells a source that has changed from another of the same file name."""
        return hashlib.sha256(str(self.sources[0].resolve()).encode()).hexdigest()


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
    return Origin(hashlib.sha256(digests.encode()).hexdigest(), json.dumps(settings, sort_keys=True), tuple(sources))


def names_if_done(image: Path, label: Path, origin: Origin) -> dict[int, str] | None:
    """The label names of a case that is there, whole and of this origin; None if it has to be made.

    Raises:
        CaseError: if it cannot be made there: its file is one of the sources, or holds the case of another source.
    """
    for source, target in product(origin.sources, (image, label)):
        if target.exists() and target.samefile(source):
            raise CaseError(f"{source} would be replaced by what is made of it: give another OUT.")
    if not (image.is_file() and label.is_file()):
        return None
    try:
        content = (
            read_npz(image, ("source_digest", "source_place", "settings", "labels"))
            if image.suffix == ".npz"
            else _comment(image)
        )
    except CaseError:
        return None
    before = Origin(str(content.get("source_digest")), str(content.get("settings")))
    if before.source_digest != origin.source_digest and content.get("source_place", origin.place) != origin.place:
        raise CaseError(
            f"{image} is a case {ANOTHER} than {origin.sources[0]}, of the same name: rename one, or give another OUT."
        )
    if before != origin:
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
    return {
        "labels": json.dumps(dict(names)),
        "source_digest": origin.source_digest,
        "source_place": origin.place,
        "settings": origin.settings,
    }


def sections_of(folder: Path) -> dict[str, str]:
    """Case -> section, as ``folder/datalist.json`` has it; one that was split, or failed meanwhile, keeps its section."""
    return {name: section for name, section, _ in _known(_read(folder))}


def _known(content: Mapping[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Case, section and entry of all that are listed."""
    entries = [(s, entry) for s in SECTIONS for entry in content[s]]
    entries += [(entry["section"], {k: v for k, v in entry.items() if k != "section"}) for entry in content["failed"]]
    return [(stem(Path(entry["image"])), section, entry) for section, entry in entries]


def check_section(section: str) -> str:
    """The section, if it is one; CaseError lists them where it is not."""
    if section not in SECTIONS:
        raise CaseError(f"section must be one of {', '.join(SECTIONS)}, got {section!r}.")
    return section


def add_to_datalist(folder: Path, section: str, cases: Sequence[Prepared], small_removed: bool = False) -> Path:
    """Add cases to ``folder/datalist.json``; those that are in it stay in their sections, and keep their patients.

    A case that ``folder/failures.json`` names is no longer what the settings say: it is moved to the list ``failed``,
    with its section, and comes back when it is prepared. So is one that was made anew with names that are refused.

    Args:
        folder: holds the files.
        section: of the new cases.
        cases: what was prepared.
        small_removed: small objects were removed from training cases; :mod:`sam_lora.data.split` keeps them there.

    Returns:
        The datalist.

    Raises:
        CaseError: if one value would have two names, or a case that shall validate or test is in another section.
    """
    content = _read(folder)
    known, ours, failures = _known(content), {stem(case.image): case for case in cases}, _failures(folder)
    before = {name: own for name, own, _ in known}
    failed = {name for name, sentence in failures.items() if name in before and ANOTHER not in sentence}
    failed |= {stem(Path(entry["image"])) for entry in content["failed"]} - ours.keys()
    labels = {int(v): n for v, n in content.get("labels", {}).items()}
    try:
        names = _joined({} if before.keys() - failed <= ours.keys() else labels, cases, folder)
        _refuse_elsewhere(section, {name: before[name] for name in ours if name in before}, folder)
    except CaseError as error:
        renamed = {name for name, case in ours.items() if any(labels.get(v, n) != n for v, n in case.names.items())}
        if known:
            _write(folder, content, known, failed | (renamed & before.keys()))
        raise CaseError(_told_first(failures, folder) + str(error)) from error
    known += [(name, section, {"patient": case.patient}) for name, case in ours.items() if name not in before]
    updated = [(n, own, _updated(e, ours[n], own, small_removed) if n in ours else e) for n, own, e in known]
    content |= {"labels": {str(v): n for v, n in sorted(names.items())}} if names else {}
    return _write(folder, content, updated, failed)


def _write(
    folder: Path, content: Mapping[str, Any], entries: Sequence[tuple[str, str, dict[str, Any]]], failed: set[str]
) -> Path:
    """Write the datalist of these cases, sections and entries, those that failed apart."""
    lists: dict[str, list[dict[str, Any]]] = {s: [] for s in (*SECTIONS, "failed")}
    for name, section, entry in entries:
        lists["failed" if name in failed else section].append(entry | ({"section": section} if name in failed else {}))
    for listed in lists.values():
        listed.sort(key=lambda e: str(e["image"]))
    write_json(folder / "datalist.json", {k: v for k, v in {**content, **lists}.items() if v or k != "failed"})
    return folder / "datalist.json"


def _updated(entry: Mapping[str, Any], case: Prepared, section: str, small_removed: bool) -> dict[str, Any]:
    kept = {key: value for key, value in entry.items() if key not in ("small_removed", "copied_from")}
    removed = {"small_removed": True} if small_removed and section == "training" else {}
    return kept | {"image": case.image.name, "label": case.label.name} | removed


def _joined(names: dict[int, str], cases: Sequence[Prepared], folder: Path) -> dict[int, str]:
    """Names of values, with those of the cases; CaseError where one value has two."""
    for case in cases:
        for value, name in case.names.items():
            if names.setdefault(value, name) != name:
                raise CaseError(
                    f"Value {value} is {name!r} in {case.image.name} and {names[value]!r} in other cases of {folder}; "
                    "give both the same --names, or another OUT."
                )
    return names


def _refuse_elsewhere(section: str, before: Mapping[str, str], folder: Path) -> None:
    """Cases stay in their sections: whoever asks for validation or test must hear that they are not there."""
    elsewhere = [name for name, own in before.items() if own != section]
    if section != "training" and elsewhere:
        raise CaseError(
            f"{len(elsewhere)} of the cases are not in {section} but stay in the sections that {folder / 'datalist.json'} "
            f"has them in, such as {elsewhere[0]} in {before[elsewhere[0]]}: remove their entries there and run again."
        )


def _told_first(failures: Mapping[str, str], folder: Path) -> str:
    if not failures:
        return ""
    first = min(failures)
    return (
        f"{len(failures)} cases failed, listed in {folder / FAILURES}; the first: {first}: {failures[first]} Of the "
        "others none is listed: "
    )


def _failures(folder: Path) -> dict[str, str]:
    """Case -> sentence, of what failed in this run."""
    path = folder / FAILURES
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "datalist.json"
    content = read_raw_datalist(path) if path.is_file() else {}
    return {**content, **{s: content.get(s) or [] for s in (*SECTIONS, "failed")}}
