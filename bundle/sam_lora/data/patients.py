"""Whose case it is, and which labels a patient shows: what a split goes by."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from sam_lora.cases import CaseError, read_array, stem
from sam_lora.data.pairs import holds_dicom, is_dicom
from sam_lora.data.work import do_all


@dataclass(frozen=True)
class Patients:
    """Where the patient of a case is read.

    Args:
        pattern: regular expression on the image's path from the datalist on; its first group, or the whole match, is the
            patient.
        table: image -> patient, see :func:`read_patients`.
        column: of the table.
    """

    pattern: str | None = None
    table: Mapping[str, str] | None = None
    column: str | None = None

    @property
    def source(self) -> str:
        """In words; a datalist keeps them, so that new cases of a patient join the old ones."""
        if self.pattern is not None:
            return f"--pattern {self.pattern}"
        return "the datalist" if self.column is None else f"--column {self.column}"

    def of(self, entry: Mapping[str, Any], start: Path = Path(), name: str | None = None) -> str:
        """The patient of a datalist entry; without pattern or table its own ``patient``, PatientID, or name.

        Args:
            entry: of a datalist.
            start: where its relative paths start.
            name: of the case, see :func:`sam_lora.datalist.case_names`; by default its file's.

        Raises:
            CaseError: if there is no match, or no row.
        """
        path = Path(str(entry["image"]))
        if self.table is not None:
            patient = self.table.get(path.name) or self.table.get(stem(path))
            if not patient:
                raise CaseError(f"The table has no {self.column} for {path.name}.")
            return patient
        if self.pattern is None:
            return str(entry.get("patient") or dicom_patient(start / path) or entry.get("name") or name or stem(path))
        # a copy's folder is named after its section: where it comes from says more
        path = Path(str({**entry, **entry.get("copied_from", {})}["image"]))
        where = (path.relative_to(start) if path.is_relative_to(start) else path).as_posix()
        try:
            found = re.search(self.pattern, where)
        except re.error as error:
            raise CaseError(f"The pattern {self.pattern!r} is no regular expression: {error}.") from error
        if found is None:
            raise CaseError(f"The pattern {self.pattern!r} finds no patient in {where}.")
        return str(found.group(1) if found.groups() else found.group(0))


def dicom_patient(path: Path) -> str | None:
    """The PatientID of a DICOM file or series; None where there is none."""
    if path.is_dir() and holds_dicom(path):
        path = next(p for p in sorted(path.iterdir()) if p.is_file() and not p.name.startswith("."))
    if not path.is_file() or not is_dicom(path):
        return None
    header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["PatientID"], force=True)
    return str(header.get("PatientID", "")).strip() or None


def read_patients(path: Path, column: str) -> dict[str, str]:
    """Image -> patient, from a CSV table whose first column names the image, with or without folder and ending.

    Raises:
        CaseError: if the table cannot be read, has no such column, or gives one image two patients.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            columns, rows = table.fieldnames or [], list(table)
    except (OSError, ValueError, csv.Error) as error:
        raise CaseError(f"{path} cannot be read as a CSV table: {error}.") from error
    if column not in columns:
        raise CaseError(f"{path} has no column {column!r}; it has {', '.join(columns) or 'none'}.")
    patients: dict[str, str] = {}
    for row in rows:
        image, patient = Path((row[columns[0]] or "").strip()).name, (row[column] or "").strip()
        if image and patients.setdefault(image, patient) != patient:
            raise CaseError(f"{path} gives {image} two patients, {patients[image]} and {patient}.")
    return patients | {stem(Path(image)): patient for image, patient in patients.items()}


def labels_shown(entries: list[dict[str, Any]], start: Path, processes: int) -> list[frozenset[str]]:
    """The label values above 0 that are present in each case.

    Args:
        entries: of a datalist.
        start: where their relative paths start.
        processes: how many are read at once.

    Raises:
        CaseError: naming the first that cannot be read.
    """
    found = do_all(entries, partial(_shown, start), processes)
    for one in found:
        if isinstance(one, Exception):
            raise CaseError(str(one)) from one
    return [one for one in found if not isinstance(one, Exception)]


def _shown(start: Path, entry: Mapping[str, Any]) -> frozenset[str]:
    if not entry.get("label"):
        return frozenset()
    return frozenset(str(v) for v in np.unique(read_array(start / str(entry["label"]), "gts")[0]) if v)
