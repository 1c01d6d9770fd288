"""Splits by patient: seeded, stable when cases are added, balanced by label presence on request."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from sam_lora.cases import CaseError
from sam_lora.data.patients import Patients

NODES = 10  # of the search, then the best so far is taken; a limit in seconds would depend on the machine
SECTIONS = ("training", "validation", "test")


def split_patients(
    patients: Mapping[str, frozenset[str]], ratios: Sequence[float], seed: int, before: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Assign every patient to a part.

    Those assigned before stay. How many patients of each kind (those that show the same labels) go where is the whole
    numbers nearest to the ratios, see :func:`_counts`; who goes is decided by a hash of seed and name, which does not
    depend on who else is there.

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
    assigned = {p: part for p, part in (before or {}).items() if p in patients}
    kinds = sorted(set(patients.values()), key=lambda kind: _order(seed, "|".join(sorted(kind))))
    new = {kind: [p for p in patients if patients[p] == kind and p not in assigned] for kind in kinds}
    there = np.zeros((len(kinds), len(ratios)), int)
    for patient, part in assigned.items():
        there[kinds.index(patients[patient]), part] += 1
    counts = _counts(kinds, [len(new[kind]) for kind in kinds], there, [r / total for r in ratios])
    for kind, row in zip(kinds, counts, strict=True):
        places = np.repeat(np.arange(len(ratios)), row)
        for patient, part in zip(sorted(new[kind], key=lambda p: _order(seed, p)), places, strict=True):
            assigned[patient] = int(part)
    return assigned


def _counts(
    kinds: Sequence[frozenset[str]], new: Sequence[int], there: np.ndarray, shares: Sequence[float]
) -> np.ndarray:
    """How many new patients of each kind go to each part: an integer program.

    Each part should have its share of all patients, and its share of those who show each label: within one patient,
    that is, rounded up or down. The parts come first, then the labels; last, the parts are as near as can be.

    Args:
        kinds: the labels that each kind of patient shows.
        new: new patients of each kind.
        there: ``(kinds, parts)``: patients who are assigned already.
        shares: of the parts, summing to 1.

    Returns:
        ``(kinds, parts)``, integers.

    Raises:
        CaseError: if there are too many labels for an answer within a minute.
    """
    labels = sorted(set().union(*kinds))
    # Which kinds are counted together: all of them for the parts, then those that show a label.
    groups = np.array([[1] * len(kinds), *([label in kind for kind in kinds] for label in labels)], float)
    parts, sums = len(shares), groups @ there
    wanted = np.round(np.outer(groups @ (np.asarray(new) + there.sum(1)), shares), 9)
    # Variables: the counts; how far each sum is beyond its share rounded up or down; how far the parts are from theirs.
    counted = sparse.csr_matrix(sparse.kron(groups, sparse.eye(parts)))
    everyone = sparse.kron(sparse.eye(len(kinds)), np.ones((1, parts)))
    beyond, near = sparse.eye(sums.size), sparse.eye(parts)
    matrix = sparse.bmat(
        [
            [counted, beyond, None],
            [counted, -beyond, None],
            [counted[:parts], None, near],
            [counted[:parts], None, -near],
            [everyone, None, None],
        ]
    )
    low, high, exact = (v.ravel() for v in (np.floor(wanted) - sums, np.ceil(wanted) - sums, wanted[0] - sums[0]))
    free = np.inf
    lower = np.concatenate([low, np.full(sums.size, -free), exact, np.full(parts, -free), new])
    upper = np.concatenate([np.full(sums.size, free), high, np.full(parts, free), exact, new])
    most = [free if share else 0 for share in shares] * len(kinds) + [free] * (sums.size + parts)
    priority = np.full(sums.shape, 10.0 * (1 + sum(new)))
    priority[0] **= 2
    found = milp(
        np.concatenate([np.zeros(there.size), priority.ravel(), np.ones(parts)]),
        integrality=np.repeat([1, 0], [there.size, sums.size + parts]),
        bounds=Bounds(0, most),
        constraints=LinearConstraint(matrix, lower, upper),
        options={"node_limit": NODES},
    )
    if found.x is None:
        raise CaseError(f"No split balances {len(labels)} labels: name those that matter, --stratify A,B.")
    return np.round(found.x[: there.size]).astype(int).reshape(there.shape)


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
