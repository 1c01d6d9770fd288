"""Means of an evaluation's rows with 95 % intervals over patients, by protocol and label."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sam_lora.metrics import bootstrap_interval

Row = Mapping[str, Any]
# statistic -> the field of a row that it averages, and whether every object of every slice weighs alike (else every row)
STATISTICS: dict[str, tuple[str, bool]] = {
    "mean_dice": ("dice", False),
    "mean_surface_dice": ("surface_dice", False),
    "mean_hd95": ("hd95", False),
    "share_missed": ("missed", False),
    "mean_false_positive": ("false_positive", False),
    "mean_object_dice": ("mean_slice_dice", True),
    "mean_clicks_85": ("clicks_85", True),
    "mean_clicks_90": ("clicks_90", True),
    "share_failed_85": ("failed_85", True),
    "share_failed_90": ("failed_90", True),
}
IN_UNITS = ("mean_hd95", "mean_false_positive")


def summarize(rows: Sequence[Row]) -> dict[str, Any]:
    """Statistics of each protocol: ``{"unit", "all": {statistic: {"value", "interval"}}, "labels": {name: likewise}}``.

    ``mean_object_dice`` weighs every object of every slice alike, ``mean_dice`` every label of every case. What is
    undefined (NaN) counts in no mean; ``mean_hd95`` so leaves out what was missed altogether, which ``share_missed``
    tells. Intervals are None for fewer than two patients. Where some cases are in mm and others in pixels, their HD95
    and false-positive volumes have no mean.
    """
    summary: dict[str, Any] = {}
    for protocol in dict.fromkeys(row["protocol"] for row in rows):
        mine = [row for row in rows if row["protocol"] == protocol]
        units = sorted({row["unit"] for row in mine})
        labels = sorted({row["label"] for row in mine})
        summary[protocol] = {
            "unit": " and ".join(units),
            "all": _statistics(mine, len(units) == 1),
            "labels": {name: _statistics([r for r in mine if r["label"] == name], len(units) == 1) for name in labels},
        }
    return summary


def _statistics(rows: Sequence[Row], has_unit: bool) -> dict[str, Any]:
    result = {}
    for name in STATISTICS:
        sums = patient_sums(rows, name) if has_unit or name not in IN_UNITS else []
        result[name] = {"value": mean_of(sums), "interval": bootstrap_interval(sums, mean_of, "patient")}
    return result


def patient_sums(rows: Sequence[Row], statistic: str) -> list[dict[str, Any]]:
    """A statistic's sum and weight for each patient: all that its mean and the bootstrap need."""
    field, by_object = STATISTICS[statistic]
    sums: dict[str, dict[str, Any]] = {}
    for row in rows:
        if not math.isnan(row[field]):
            one = sums.setdefault(row["patient"], {"patient": row["patient"], "sum": 0.0, "weight": 0})
            weight = row["slices"] if by_object else 1
            one["sum"] += weight * row[field]
            one["weight"] += weight
    return list(sums.values())


def mean_of(sums: Sequence[Row]) -> float:
    """The mean over all that was summed; NaN where there is nothing."""
    weight = sum(one["weight"] for one in sums)
    return sum(one["sum"] for one in sums) / weight if weight else float("nan")


def describe(summary: Mapping[str, Any]) -> str:
    """A summary as a table of text, a line for each protocol and label; what is undefined everywhere is left out."""
    lines = []
    for protocol, part in summary.items():
        for label, statistics in (("all", part["all"]), *part["labels"].items()):
            values = [
                f"{name.removeprefix('mean_')} {shown(one)}" for name, one in statistics.items() if is_defined(one)
            ]
            lines.append(f"{protocol:<13} {label:<20} {'  '.join(values)}")
    return "\n".join(lines)


def is_defined(statistic: Mapping[str, Any]) -> bool:
    """Whether a statistic has a value."""
    return statistic["value"] is not None and not math.isnan(statistic["value"])


def shown(statistic: Mapping[str, Any]) -> str:
    """A statistic with its interval, as text."""
    interval = statistic["interval"]
    return f"{statistic['value']:.3f}" + ("" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]")


def jsonable(value: Any) -> Any:
    """NaN has no place in JSON: null says "undefined"."""
    if isinstance(value, Mapping):
        return {key: jsonable(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value
