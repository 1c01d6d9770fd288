"""Two evaluations of the same cases, paired: which is ahead, by how much, and whether that could be chance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sam_lora.evaluation.summary import IN_UNITS, STATISTICS, mean_of, patient_sums
from sam_lora.metrics import bootstrap_interval

COMPARED = ("mean_dice", "mean_object_dice", "mean_surface_dice", "mean_hd95", "mean_clicks_85", "mean_clicks_90",
            "mean_false_positive", "share_missed", "share_failed_85", "share_failed_90")  # fmt: skip
LESS_IS_BETTER = COMPARED[3:]
EQUAL = {"protocols": "protocols", "label": "labels", "min_pixels": "min_pixels", "every": "every",
         "tolerance": "tolerances", "max_clicks": "max_clicks", "seed": "seeds", "parts": "parts"}  # fmt: skip
SINCE = {"parts": False}  # what evaluations had that do not name it


class ComparisonError(ValueError):
    """Two evaluations cannot be compared; the sentence says why."""


def read_metrics(path: Path) -> dict[str, Any]:
    """Read an evaluation's ``metrics.json``; ComparisonError if it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ComparisonError(f"{path} cannot be read as the metrics.json of an evaluation: {error}.") from error
    if not isinstance(content, dict) or not {"rules", "cases", "rows"} <= content.keys():
        raise ComparisonError(f"{path} is no metrics.json of an evaluation: it lacks rules, cases or rows.")
    if not isinstance(content["rules"], dict) or not EQUAL.keys() - SINCE <= content["rules"].keys():
        raise ComparisonError(f"{path} is no metrics.json of an evaluation: its rules lack one of {', '.join(EQUAL)}.")
    return content


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Compare two evaluations.

    Args:
        first: content of a ``metrics.json``.
        second: likewise, of the same cases under the same rules.

    Returns:
        Protocol -> statistic -> ``first``, ``second``, ``difference`` (second minus first), its 95 % ``interval`` (the
        same patients drawn for both, 1000 times; None for fewer than two), ``patients``, and ``ahead``: "first",
        "second", or None where the interval holds zero. Labels of a case where either is undefined count for neither.

    Raises:
        ComparisonError: naming what differs between them.
    """
    _refuse_other_rules(first, second)
    result: dict[str, Any] = {}
    for protocol in first["rules"]["protocols"]:
        pairs = _paired(first["rows"], second["rows"], protocol)
        found = {name: _difference(pairs, name) for name in COMPARED}
        result[protocol] = {name: one for name, one in found.items() if one is not None}
    return result


def _refuse_other_rules(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    for key, word in EQUAL.items():
        rules = ({**SINCE, **evaluation["rules"]} for evaluation in (first, second))
        one, other = (sorted(r[key]) if key == "protocols" else r[key] for r in rules)
        if one != other:
            raise ComparisonError(
                f"The evaluations have different {word}, {_text(one)} and {_text(other)}: evaluate both with the same."
            )
    cases, others = ({case["name"]: case for case in one["cases"]} for one in (first, second))
    for name in sorted(cases.keys() ^ others.keys()):
        raise ComparisonError(
            f"The evaluations are of different cases: {name} is in the {'first' if name in cases else 'second'} only."
        )
    for name, case in cases.items():
        if case != others[name]:
            raise ComparisonError(f"The label map or the patient of case {name} differs between the evaluations.")


def _paired(rows: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], protocol: str) -> list[tuple]:
    """Rows of both evaluations for the same label of the same case."""
    mine, theirs = ({(r["case"], r["value"]): r for r in some if r["protocol"] == protocol} for some in (rows, others))
    return [(mine[key], theirs[key]) for key in sorted(mine.keys() & theirs.keys())]


def _difference(pairs: Sequence[tuple], statistic: str) -> dict[str, Any] | None:
    field, _ = STATISTICS[statistic]
    if statistic in IN_UNITS and len({row["unit"] for pair in pairs for row in pair}) > 1:
        return None  # mm and pixels have no mean
    defined = [pair for pair in pairs if all(row[field] is not None for row in pair)]
    sums = [patient_sums([pair[n] for pair in defined], statistic) for n in (0, 1)]
    both = [{"patient": a["patient"], "first": a, "second": b} for a, b in zip(*sums, strict=True)]
    if not both:
        return None

    def difference(some: Sequence[Mapping[str, Any]]) -> float:
        return mean_of([one["second"] for one in some]) - mean_of([one["first"] for one in some])

    interval = bootstrap_interval(both, difference, "patient")
    ahead = None
    if interval is not None and not interval[0] <= 0 <= interval[1]:
        ahead = "second" if (interval[0] > 0) != (statistic in LESS_IS_BETTER) else "first"
    return {
        "first": mean_of(sums[0]),
        "second": mean_of(sums[1]),
        "difference": difference(both),
        "interval": interval,
        "patients": len(both),
        "ahead": ahead,
    }


def describe_comparison(comparison: Mapping[str, Any], names: tuple[str, str]) -> str:
    """A comparison as text, a line for each protocol and statistic; ``names`` of the first and the second."""
    lines = [f"A: {names[0]}", f"B: {names[1]}"]
    for protocol, statistics in comparison.items():
        for name, one in statistics.items():
            interval = one["interval"]
            bounds = "" if interval is None else f" [{interval[0]:+.3f}, {interval[1]:+.3f}]"
            verdict = {"first": "A is ahead", "second": "B is ahead", None: "no difference shown"}[one["ahead"]]
            lines.append(
                f"{protocol:<13} {name:<20} A {one['first']:.3f}  B {one['second']:.3f}  "
                f"B - A {one['difference']:+.3f}{bounds}  {verdict} ({one['patients']} patients)"
            )
    return "\n".join(lines)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
