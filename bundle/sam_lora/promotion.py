"""Champion and challenger: whether a new adapter is at least as good as the one that serves, on cases neither was trained on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from sam_lora import __version__
from sam_lora.adapter import DEFAULT_INTENSITY
from sam_lora.cases import Case, read_case
from sam_lora.embedding import Embedder
from sam_lora.evaluation import EvaluationRules, evaluate_case
from sam_lora.networks import Sam

PROMPTED = ("jittered_box", "clicks_1")  # count always
AUTOMATIC = "automatic"  # counts once the champion has learned a label so well that somebody may rely on it:
AUTOMATIC_COUNTS = 0.3
MARGIN = 0.02  # Dice that a challenger may be behind: about what trainings differ by that saw other slices of the same labels


@dataclass(frozen=True)
class Verdict:
    """What came of a comparison.

    Args:
        promoted: whether the challenger is to serve.
        why: a sentence.
        scores: protocol -> ``{"champion", "challenger", "difference", "pairs", "counts"}``; the first three are mean
            Dice, or None where nothing was measured; ``pairs`` are rows ``{"case", "label", "champion",
            "challenger"}``.
        measured: what was measured, each case by each network, under a digest of all that it follows from; JSON can
            hold it. :func:`judge` takes it the next time.
    """

    promoted: bool
    why: str
    scores: dict[str, Any]
    measured: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)


def judge(
    champion: Sam,
    challenger: Sam,
    cases: Sequence[Mapping[str, Any]],
    labels: Mapping[int, str],
    margin: float = MARGIN,
    every: int = 1,
    on_case: Callable[[int, int], None] = lambda done, total: None,
    known: Mapping[str, dict[str, dict[str, float]]] | None = None,
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
        known: ``measured`` of an earlier verdict. A case is not measured again where the network's tensors, the case's
            voxels and name, labels, rules, device and versions are the same.

    Raises:
        ValueError: if ``margin`` is negative.
        CaseError: if a case cannot be read.
    """
    if not margin >= 0:
        raise ValueError(f"margin must be a Dice of at least 0, got {margin!r}.")
    both: list[dict[str, dict[tuple[str, int], float]]] = []
    measured: dict[str, dict[str, dict[str, float]]] = {}
    for place, network in enumerate((champion, challenger)):
        embedder = Embedder(network)
        found: dict[str, dict[tuple[str, int], float]] = {}
        for number, entry in enumerate(cases, 1):
            case, rules = _read(embedder, entry, labels, every)
            key = _key(embedder, case, rules)
            measured[key] = (known or {}).get(key) or _measure(embedder, case, rules)
            for protocol, dice in measured[key].items():
                found.setdefault(protocol, {}).update({(case.name, int(value)): one for value, one in dice.items()})
            on_case(place * len(cases) + number, 2 * len(cases))
        both.append(found)
    return replace(decide(both[0], both[1], labels, margin), measured=measured)


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


def _read(
    embedder: Embedder, entry: Mapping[str, Any], labels: Mapping[int, str], every: int
) -> tuple[Case, list[tuple[EvaluationRules, dict[int, str]]]]:
    """A case as the network wants it, and what is measured on it: rules, and the labels they are for."""
    spec = getattr(embedder.network, "spec", None)
    case = read_case(entry, (spec.intensity if spec else None) or DEFAULT_INTENSITY)
    learned = {v: n for v, n in labels.items() if v in embedder.network.tokens and spec and spec.labels.get(v) == n}
    rules = [(EvaluationRules(PROMPTED, every=every, max_clicks=0), dict(labels))]
    return case, [*rules, (EvaluationRules((AUTOMATIC,), every=every), learned)] if learned else rules


def _key(embedder: Embedder, case: Case, rules: Any) -> str:
    """Digest of all that a measurement follows from."""
    voxels = (case.content, case.image.shape, case.name)
    said = repr((embedder.identity, voxels, rules, embedder.network.tokens, __version__, torch.__version__))
    return hashlib.sha256(said.encode()).hexdigest()


def _measure(
    embedder: Embedder, case: Case, rules: Sequence[tuple[EvaluationRules, dict[int, str]]]
) -> dict[str, dict[str, float]]:
    """Protocol -> label value -> Dice, where it is defined."""
    found: dict[str, dict[str, float]] = {}
    for asked, labels in rules:
        for row in evaluate_case(embedder, case, labels, asked).rows:
            value = row["mean_slice_dice"] if row["protocol"] in PROMPTED else row["dice"]
            if row["value"] in labels and not math.isnan(value):
                found.setdefault(row["protocol"], {})[str(row["value"])] = float(value)
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
