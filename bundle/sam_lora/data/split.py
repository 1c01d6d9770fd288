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
from sam_lora.datalist import case_names

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

    What carries ``"split": true`` was split before and stays where it is. What is in validation or test without it was
    put there by hand, and stays too; its patients do not count in the shares of the others.

    Args:
        content: a datalist.
        start: where its relative paths start.
        patients: where the patient of a case is read.
        ratios: shares of training, validation and test.
        folds: cross-validation over this many folds instead: validation is one fold, training the others; test has what
            was put there by hand.
        fold: which fold validates, from 0.
        seed: of the order.
        shown: image -> labels that are present in it, for a split that is balanced by them.

    Returns:
        The datalist with its cases in their sections, each with ``patient`` and, in cross-validation, ``fold``. It keeps
        where patients are read and how it was split in ``patients_from`` and ``split_with``.

    Raises:
        CaseError: if a number is out of range, the datalist was split otherwise before, a patient cannot be told or is
            in two sections, or a case that may only train would not.
    """
    entries = [(s, dict(e)) for s in SECTIONS for e in content.get(s) or []]
    way = f"--folds {folds}" if folds else f"--ratios {','.join(f'{r:g}' for r in ratios)}"
    kept = {"patients_from": patients.source, "split_with": f"{way} --seed {seed}"}
    if any(e.get("split") for _, e in entries):
        _refuse_change(content, kept)
    names = case_names([str(e["image"]) for _, e in entries], start)
    for (_, entry), name in zip(entries, names, strict=True):
        entry["patient"] = patients.of(entry, start, name)
    _refuse_two_sections(entries, by_fold=bool(folds))
    by_hand = {e["patient"]: s for s, e in entries if not e.get("split") and s != "training"}
    if folds:
        _check_folds(folds, fold, by_hand)
    before = {
        e["patient"]: int(e["fold"]) if folds else SECTIONS.index(s)
        for s, e in entries
        if e.get("split") and e["patient"] not in by_hand
    }
    others = _labels_of_patients([e for _, e in entries if e["patient"] not in by_hand], shown or {})
    assigned = split_patients(others, [1.0] * folds if folds else ratios, seed, before)
    result: dict[str, Any] = {**content, **{s: [] for s in SECTIONS}, **kept}
    for _, entry in entries:
        section = by_hand.get(entry["patient"])
        if section is None:
            part = assigned[entry["patient"]]
            section = ("validation" if part == fold else "training") if folds else SECTIONS[part]
            entry |= {"split": True, **({"fold": part} if folds else {})}
        if folds or section != "training":
            _refuse_small_removed(entry)
        result[section].append(entry)
    for section in SECTIONS:
        result[section].sort(key=lambda e: str(e["image"]))
    return result


def _labels_of_patients(
    entries: Sequence[Mapping[str, Any]], shown: Mapping[str, frozenset[str]]
) -> dict[str, frozenset[str]]:
    labels: dict[str, frozenset[str]] = {}
    for entry in entries:
        patient = entry["patient"]
        labels[patient] = labels.get(patient, frozenset()) | shown.get(str(entry["image"]), frozenset())
    return labels


def _refuse_change(content: Mapping[str, Any], now: Mapping[str, str]) -> None:
    anew = "keep that, or start anew: delete the datalist and make it again (what is prepared is kept)"
    patients, way = content.get("patients_from"), content.get("split_with")
    if patients != now["patients_from"]:
        raise CaseError(
            f"The datalist was split with patients from {patients}, now they are from {now['patients_from']}: {anew}."
        )
    if way != now["split_with"]:
        raise CaseError(f"The datalist was split with {way}, now it is {now['split_with']}: {anew}.")


def _check_folds(folds: int, fold: int, by_hand: Mapping[str, str]) -> None:
    if not (folds >= 2 and 0 <= fold < folds):
        raise CaseError(f"folds must be at least 2 and fold from 0 to folds - 1, got {folds} and {fold}.")
    if "validation" in by_hand.values():
        raise CaseError(
            "folds choose what validates, but validation has cases of its own: move them to training or test."
        )


def _refuse_small_removed(entry: Mapping[str, Any]) -> None:
    if entry.get("small_removed"):
        raise CaseError(
            f"{entry['image']} has had small objects removed: it may train, never be measured. Prepare without "
            "--min_volume and --min_area, split, and prepare again with them: that changes training cases only."
        )


def _refuse_two_sections(entries: Sequence[tuple[str, Mapping[str, Any]]], by_fold: bool) -> None:
    """Nobody who is settled may be settled elsewhere too: one of the two would have to move."""
    settled: dict[str, tuple[str, str]] = {}
    for section, entry in entries:
        if entry.get("split") or section != "training":
            part = f"fold {entry['fold']}" if by_fold and entry.get("split") else section
            other, image = settled.setdefault(entry["patient"], (part, str(entry["image"])))
            if other != part:
                raise CaseError(
                    f"Patient {entry['patient']} is in {other} with {image} and in {part} with {entry['image']}; put all "
                    "cases of a patient into one section of the datalist."
                )
