"""Splits by patient: seeded, stable when cases are added, balanced by label presence on request."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from sam_lora.cases import CaseError
from sam_lora.data.patients import Patients

SECTIONS = ("training", "validation", "test")


def split_patients(
    patients: Mapping[str, frozenset[str]], ratios: Sequence[float], seed: int, before: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Assign every patient to a part.

    Those assigned before stay. The others, in an order that is a hash of seed and name and does not depend on who else
    is there, go one by one where most are missing: every part gets its share, rounded up or down. Then two of them
    change places as long as this brings the number of patients who show each label nearer to its shares.

    Args:
        patients: patient -> labels that the split is balanced by; none for a plain split.
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
    shares = np.asarray(ratios, float) / total
    assigned = {p: part for p, part in (before or {}).items() if p in patients}
    new = sorted(patients.keys() - assigned.keys(), key=lambda p: _order(seed, p))
    missing = shares * len(patients) - np.bincount([*assigned.values()], minlength=len(shares))
    parts = np.zeros(len(new), int)
    for n in range(len(new)):
        parts[n] = np.argmax(np.where(shares > 0, np.round(missing, 9), -np.inf))
        missing[parts[n]] -= 1
    labels = sorted(set().union(*patients.values()))
    shows = np.array([[label in patients[p] for label in labels] for p in [*assigned, *new]], float)
    if labels:
        parts = _balanced(shows, np.array([*assigned.values(), *parts], int), shares, len(assigned))[len(assigned) :]
    return assigned | dict(zip(new, parts.tolist(), strict=True))


def _balanced(shows: np.ndarray, parts: np.ndarray, shares: np.ndarray, fixed: int) -> np.ndarray:
    """Let patients change places while that makes the sum of squares of what labels have too many or too few smaller.

    Args:
        shows: ``(patients, labels)``, 1 where a patient shows a label.
        parts: ``(patients,)``.
        shares: of the parts.
        fixed: so many of the first patients stay.

    Returns:
        The new parts.
    """
    parts, movable = parts.copy(), np.arange(len(parts)) >= fixed
    while True:
        surplus = np.stack([shows[parts == n].sum(0) for n in range(len(shares))]) - np.outer(shares, shows.sum(0))
        best, pair = -1e-6, None
        for one, other in combinations(range(len(shares)), 2):
            here, there = (np.flatnonzero((parts == n) & movable) for n in (one, other))
            if len(here) and len(there):
                gain = shows @ (surplus[one] - surplus[other])
                differ = (shows.sum(1)[here][:, None] + shows.sum(1)[there]) - 2 * shows[here] @ shows[there].T
                change = np.round(
                    gain[there] - gain[here][:, None] + differ, 9
                )  # half of the sum's; ties as everywhere
                if change.min() < best:
                    a, b = np.unravel_index(change.argmin(), change.shape)
                    best, pair = change.min(), (here[a], there[b])
        if pair is None:
            return parts
        parts[[*pair]] = parts[[*pair[::-1]]]


def _order(seed: int, patient: str) -> str:
    return hashlib.sha256(f"{seed}|{patient}".encode()).hexdigest()


def split_datalist(
    content: Mapping[str, Any],
    start: Path = Path(),
    patients: Patients = Patients(),  # noqa: B008  it is frozen
    ratios: Sequence[float] = (0.8, 0.1, 0.1),
    folds: int = 0,
    fold: int = 0,
    seed: int = 0,
    shown: Mapping[str, frozenset[str]] | None = None,
) -> dict[str, Any]:
    """Split a datalist's cases into training, validation and test, by patient.

    Args:
        content: a datalist; entries that are in a section already, and carry ``"split": true``, stay there.
        start: where its relative paths start.
        patients: where the patient of a case is read.
        ratios: shares of training, validation and test.
        folds: cross-validation over this many folds instead: validation is one fold, training the others; no test.
        fold: which fold validates, from 0.
        seed: of the order.
        shown: image -> labels that are present in it, for a split that is balanced by them.

    Returns:
        The datalist with its cases in their sections, each with ``patient`` and, in cross-validation, ``fold``.

    Raises:
        CaseError: if a number is out of range, a patient cannot be told, or is told otherwise than before, or a case
            that may only train would not.
    """
    if folds and not (folds >= 2 and 0 <= fold < folds):
        raise CaseError(f"folds must be at least 2 and fold from 0 to folds - 1, got {folds} and {fold}.")
    entries = [(s, dict(e)) for s in SECTIONS for e in content.get(s) or []]
    if any(e.get("split") for _, e in entries) and content.get("patients_from", patients.source) != patients.source:
        raise CaseError(
            f"The datalist was split with patients from {content['patients_from']}, now they are from "
            f"{patients.source}: keep that, or delete the datalist and make it again (what is prepared is kept)."
        )
    labels: dict[str, frozenset[str]] = {}
    for _, entry in entries:
        patient = entry["patient"] = patients.of(entry, start)
        labels[patient] = labels.get(patient, frozenset()) | (shown or {}).get(str(entry["image"]), frozenset())
    if folds:
        before = {e["patient"]: int(e["fold"]) for _, e in entries if "fold" in e}
    else:
        before = {e["patient"]: SECTIONS.index(s) for s, e in entries if e.get("split")}
    assigned = split_patients(labels, [1.0] * folds if folds else ratios, seed, before)
    result: dict[str, Any] = {**content, **{s: [] for s in SECTIONS}, "patients_from": patients.source}
    for _, entry in entries:
        part = assigned[entry["patient"]]
        section = ("validation" if part == fold else "training") if folds else SECTIONS[part]
        if entry.get("small_removed") and (folds or section != "training"):
            raise CaseError(
                f"{entry['image']} has had small objects removed: it may train, never be measured. Prepare without "
                "--min_volume and --min_area, split, and prepare again with them: that changes training cases only."
            )
        result[section].append({**entry, "split": True, **({"fold": part} if folds else {})})
    for section in SECTIONS:
        result[section].sort(key=lambda e: str(e["image"]))
    return result
