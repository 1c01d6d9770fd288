"""Splits by patient: seeded, stable when cases are added, stratified by label on request."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sam_lora.cases import CaseError

SECTIONS = ("training", "validation", "test")


def patient_of(entry: Mapping[str, Any], pattern: str | None = None) -> str:
    """The patient of a datalist entry: its own ``patient``, or what a regular expression finds in its image's name.

    Args:
        entry: of a datalist.
        pattern: regular expression; its first group, or the whole match, is the patient.

    Raises:
        CaseError: if the pattern does not match.
    """
    if pattern is None:
        return str(entry.get("patient") or Path(str(entry["image"])).name)
    found = re.search(pattern, Path(str(entry["image"])).name)
    if found is None:
        raise CaseError(f"The pattern {pattern!r} finds no patient in the name {Path(str(entry['image'])).name}.")
    return found.group(1) if found.groups() else found.group(0)


def split_patients(
    patients: Mapping[str, str], ratios: Sequence[float], seed: int, before: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Assign every patient to a part.

    Patients are ordered by a hash of seed and name, so that the order does not depend on who else is there. Those
    assigned before stay; each new one goes where most are missing for the ratios, within the patient's stratum first.

    Args:
        patients: patient -> stratum; one stratum for all gives a plain split.
        ratios: share of each part; they are scaled to sum to 1.
        seed: of the order.
        before: assignments to keep.

    Returns:
        patient -> number of the part.

    Raises:
        CaseError: if a ratio is negative or all are zero.
    """
    total = sum(ratios)
    if any(r < 0 for r in ratios) or total <= 0:
        raise CaseError(f"ratios must be numbers of at least 0, not all 0, got {list(ratios)}.")
    shares = [r / total for r in ratios]
    assigned = {p: part for p, part in (before or {}).items() if p in patients}
    counts = [0] * len(shares)
    per_stratum: dict[str, list[int]] = {}
    for patient, part in assigned.items():
        counts[part] += 1
        per_stratum.setdefault(patients[patient], [0] * len(shares))[part] += 1
    for patient in sorted(patients.keys() - assigned.keys(), key=lambda p: _order(seed, p)):
        own = per_stratum.setdefault(patients[patient], [0] * len(shares))
        number, mine = sum(counts) + 1, sum(own) + 1
        missing = [(s * number - c, s * mine - o) for s, c, o in zip(shares, counts, own, strict=True)]
        # The whole split stays within one patient of its ratios; among parts that keep to that, the stratum decides.
        allowed = [n for n, s in enumerate(shares) if s and missing[n][0] > 0]
        part = max(allowed, key=lambda n: (missing[n][1], missing[n][0], -n))
        if max(m[0] for m in missing) >= 1:
            part = max(range(len(shares)), key=lambda n: (missing[n][0], -n))
        assigned[patient] = part
        counts[part] += 1
        own[part] += 1
    return assigned


def _order(seed: int, patient: str) -> str:
    return hashlib.sha256(f"{seed}|{patient}".encode()).hexdigest()


def split_datalist(
    content: Mapping[str, Any],
    ratios: Sequence[float] = (0.8, 0.1, 0.1),
    folds: int = 0,
    fold: int = 0,
    seed: int = 0,
    pattern: str | None = None,
    strata: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Split a datalist's cases into training, validation and test, by patient.

    Args:
        content: a datalist; entries that are in a section already, and carry ``"split": true``, stay there.
        ratios: shares of training, validation and test.
        folds: cross-validation over this many folds instead: validation is one fold, training the others; no test.
        fold: which fold validates, from 0.
        seed: of the order.
        pattern: see :func:`patient_of`.
        strata: patient -> stratum, for a split that is balanced within each.

    Returns:
        The datalist with its cases in their sections, each with ``patient`` and, in cross-validation, ``fold``.

    Raises:
        CaseError: if a number is out of range or a patient cannot be told.
    """
    if folds and not (folds >= 2 and 0 <= fold < folds):
        raise CaseError(f"folds must be at least 2 and fold from 0 to folds - 1, got {folds} and {fold}.")
    entries = [(s, dict(e)) for s in SECTIONS for e in content.get(s) or []]
    before: dict[str, int] = {}
    for section, entry in entries:
        entry["patient"] = patient_of(entry, pattern)
        if folds and "fold" in entry:
            before[entry["patient"]] = int(entry["fold"])
        elif not folds and entry.get("split"):
            before[entry["patient"]] = SECTIONS.index(section)
    patients = {e["patient"]: (strata or {}).get(e["patient"], "") for _, e in entries}
    assigned = split_patients(patients, [1.0] * folds if folds else ratios, seed, before)
    result: dict[str, Any] = {**content, **{section: [] for section in SECTIONS}}
    for _, entry in entries:
        part = assigned[entry["patient"]]
        entry["split"] = True
        if folds:
            entry["fold"] = part
            result["validation" if part == fold else "training"].append(entry)
        else:
            result[SECTIONS[part]].append(entry)
    for section in SECTIONS:
        result[section].sort(key=lambda e: str(e["image"]))
    return result
