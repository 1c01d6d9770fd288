"""How every trained method is measured: the same slices, the same boxes, the same figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from benchmarks.cohorts import Entry
from benchmarks.peers.job import Segmenter
from sam_lora.cases import read_case
from sam_lora.evaluation import CaseTruth, EvaluationRules, measure_answers
from sam_lora.evaluation.comparison import compare
from sam_lora.evaluation.reliability import reliabilities
from sam_lora.evaluation.summary import jsonable, summarize

# protocol -> what is shown of it
STATISTICS = {"jittered_box": "mean_object_dice", "clicks_1": "mean_object_dice", "automatic": "mean_dice"}


def measure(
    segmenter: Segmenter, entries: Sequence[Entry], labels: Mapping[int, str], rules: EvaluationRules
) -> dict[str, Any]:
    """Segment some cases and measure the answers.

    Args:
        segmenter: what is measured.
        entries: of a datalist.
        labels: value -> name.
        rules: protocols, slices and sizes.

    Returns:
        What JSON can hold, in the shape that :func:`sam_lora.evaluation.comparison.compare` takes: ``rules``,
        ``cases``, ``rows``, and ``summary`` and ``reliability`` of them.
    """
    cases, rows, objects = [], [], []
    for entry in tqdm(entries, desc="measuring", unit="case"):
        case = read_case(entry)
        truth = CaseTruth(case, labels, rules, entry.get("patient"))
        found = measure_answers(truth, segmenter(truth, rules))
        cases.append(found.describe())
        rows += found.rows
        objects += found.objects
    return jsonable(
        {
            "rules": dataclasses.asdict(rules),
            "cases": cases,
            "summary": summarize(rows),
            "reliability": reliabilities(objects),
            "rows": rows,
        }
    )


def figure_of(measured: Mapping[str, Any], protocol: str) -> dict[str, Any] | None:
    """A protocol's figure, ``value`` and 95 % ``interval`` over patients; None where it was not measured."""
    part = measured["summary"].get(protocol)
    return None if part is None else part["all"][STATISTICS[protocol]]


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any], protocol: str) -> dict[str, Any] | None:
    """By how much ours lies above theirs, paired by case and label, see ``compare``; None if either was not measured."""
    measured = [protocol in one["rules"]["protocols"] for one in (ours, theirs)]
    if not all(measured):
        return None
    first, second = ({**one, "rules": {**one["rules"], "protocols": [protocol]}} for one in (theirs, ours))
    return compare(first, second)[protocol][STATISTICS[protocol]]
