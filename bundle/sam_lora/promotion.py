"""Champion and challenger: whether a new adapter is at least as good as the one that serves, on cases neither was trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sam_lora.adapter import DEFAULT_INTENSITY
from sam_lora.cases import read_case
from sam_lora.embedding import Embedder
from sam_lora.evaluation import EvaluationRules, evaluate_case
from sam_lora.networks import Sam

PROMPTED = ("jittered_box", "clicks_1")  # count always
AUTOMATIC = "automatic"  # counts once the champion has learned a label so well that somebody may rely on it:
AUTOMATIC_COUNTS = 0.3
MARGIN = 0.02  # Dice that a challenger may be behind: about what repeated trainings on the same labels differ by


@dataclass(frozen=True)
class Verdict:
    """What came of a comparison.

    Args:
        promoted: whether the challenger is to serve.
        why: a sentence.
        scores: protocol -> ``{"champion", "challenger", "difference", "pairs", "counts"}``; the first three are mean
            Dice, or None where nothing was measured; ``pairs`` are rows ``{"case", "label", "champion",
            "challenger"}``.
    """

    promoted: bool
    why: str
    scores: dict[str, Any]


def judge(
    champion: Sam,
    challenger: Sam,
    cases: Sequence[Mapping[str, Any]],
    labels: Mapping[int, str],
    margin: float = MARGIN,
    every: int = 1,
    on_case: Callable[[int, int], None] = lambda done, total: None,
) -> Verdict:
    """Compare two networks on held-out cases, paired by case and label.

    Args:
        champion: what serves; the base where nothing else does.
        challenger: what might.
        cases: datalist entries with labels.
        labels: value -> name of the label maps.
        margin: Dice by which the challenger's mean may be lower, in each protocol that counts.
        every: measure every n-th slice.
        on_case: told after each case how many are done, and of how many.

    Raises:
        ValueError: if ``margin`` is negative.
        CaseError: if a case cannot be read.
    """
    if not margin >= 0:
        raise ValueError(f"margin must be a Dice of at least 0, got {margin!r}.")
    measured: list[dict[str, dict[tuple[str, int], float]]] = []
    for place, network in enumerate((champion, challenger)):
        embedder = Embedder(network)
        found: dict[str, dict[tuple[str, int], float]] = {}
        for number, entry in enumerate(cases, 1):
            for protocol, values in _measure(embedder, entry, labels, every).items():
                found.setdefault(protocol, {}).update(values)
            on_case(place * len(cases) + number, 2 * len(cases))
        measured.append(found)
    return decide(measured[0], measured[1], labels, margin)


def decide(
    champion: Mapping[str, Mapping[tuple[str, int], float]],
    challenger: Mapping[str, Mapping[tuple[str, int], float]],
    labels: Mapping[int, str],
    margin: float = MARGIN,
) -> Verdict:
    """Judge by what was measured.

    A label that the champion finds without a prompt and the challenger does not counts as Dice 0 for the challenger.

    Args:
        champion: protocol -> (case, label value) -> Dice.
        challenger: likewise.
        labels: value -> name.
        margin: see :func:`judge`.
    """
    scores = {}
    for protocol in (*PROMPTED, AUTOMATIC):
        theirs, mine = champion.get(protocol, {}), challenger.get(protocol, {})
        keys = sorted(theirs if protocol == AUTOMATIC else theirs.keys() & mine.keys())
        scores[protocol] = _scores([(key, theirs[key], mine.get(key, 0.0)) for key in keys], labels)
        before = scores[protocol]["champion"]
        scores[protocol]["counts"] = before is not None and (protocol != AUTOMATIC or before >= AUTOMATIC_COUNTS)
    counted = {protocol: one for protocol, one in scores.items() if one["counts"]}
    if not counted:
        return Verdict(False, "No case is held out yet: promoting is up to you.", scores)
    worse = [
        f"{protocol} {one['challenger']:.3f} after {one['champion']:.3f}"
        for protocol, one in counted.items()
        if one["difference"] < -margin
    ]
    if worse:
        return Verdict(False, f"Worse than the champion on the held-out cases: {', '.join(worse)}.", scores)
    said = ", ".join(
        f"{protocol} {one['challenger']:.3f} after {one['champion']:.3f}" for protocol, one in counted.items()
    )
    return Verdict(True, f"Not worse than the champion on the held-out cases: {said}.", scores)


def _measure(
    embedder: Embedder, entry: Mapping[str, Any], labels: Mapping[int, str], every: int
) -> dict[str, dict[tuple[str, int], float]]:
    """Protocol -> (case, label value) -> Dice, where it is defined."""
    spec = getattr(embedder.network, "spec", None)
    case = read_case(entry, (spec.intensity if spec else None) or DEFAULT_INTENSITY)
    learned = {v: n for v, n in labels.items() if v in embedder.network.tokens and spec and spec.labels.get(v) == n}
    rows = evaluate_case(embedder, case, labels, EvaluationRules(PROMPTED, every=every, max_clicks=0)).rows
    if learned:
        rows += evaluate_case(embedder, case, learned, EvaluationRules((AUTOMATIC,), every=every)).rows
    found: dict[str, dict[tuple[str, int], float]] = {}
    for row in rows:
        value = row["mean_slice_dice"] if row["protocol"] in PROMPTED else row["dice"]
        if row["value"] in labels and not math.isnan(value):
            found.setdefault(row["protocol"], {})[case.name, row["value"]] = value
    return found


def _scores(pairs: Sequence[tuple[tuple[str, int], float, float]], labels: Mapping[int, str]) -> dict[str, Any]:
    rows = [
        {"case": case, "label": labels[value], "champion": round(before, 4), "challenger": round(after, 4)}
        for (case, value), before, after in pairs
    ]
    if not pairs:
        return {"champion": None, "challenger": None, "difference": None, "pairs": rows}
    before, after = (sum(values) / len(pairs) for values in ([one[1] for one in pairs], [one[2] for one in pairs]))
    return {"champion": before, "challenger": after, "difference": after - before, "pairs": rows}
