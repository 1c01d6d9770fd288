"""The page of an evaluation: what was asked, tables with intervals, reliability, and the worst, median and best cases."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sam_lora.evaluation.reliability import plot_reliability
from sam_lora.evaluation.summary import STATISTICS, is_defined, shown
from sam_lora.evaluation.truth import CaseTruth
from sam_lora.files import write_aside
from sam_lora.metrics import nan_mean
from sam_lora.page import inline_png
from sam_lora.plots import outline

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1.5rem; color: #1c2733 }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem } .note { color: #5b6875 }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums } .wide { overflow-x: auto }
th, td { padding: .3rem 1rem .3rem 0; text-align: left; border-bottom: 1px solid #e3e8ee; white-space: nowrap }
tr.all td { font-weight: 600 } td span { color: #5b6875; font-weight: 400 } img { max-width: 100%; display: block }
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 1rem } figure { margin: 0; font-size: .85rem }
"""
_ORACLE = "Boxes and clicks come from the ground truth: they are an oracle, and a person's are worse. Nothing but the label is given in <i>automatic</i>."
_READ = (
    "Intervals: 95 %, patients drawn with replacement. <i>dice</i>, <i>surface_dice</i> and <i>hd95</i> are of the label's volume in a "
    "case, <i>object_dice</i> is per object and slice; <i>missed</i> is the share of labels with an empty answer, which hd95 leaves out; "
    "<i>false_positive</i> is what was segmented of labels that a case does not have; <i>clicks_85</i>, <i>clicks_90</i> are clicks to "
    "that Dice, the most that were tried where it was not reached (<i>failed</i>)."
)


def write_page(folder: Path, summary: Mapping[str, Any], objects: Sequence[Mapping[str, Any]]) -> None:
    """Write ``report.html`` into an evaluation's folder, with the pictures that it needs inside.

    Args:
        folder: holds ``overlays/<protocol>/<case>.png``.
        summary: what goes into ``metrics.json``.
        objects: the rows of slice objects.
    """
    rules, adapter = summary["rules"], summary["adapter"]
    said = ", ".join(f"{name} {value}" for name, value in rules.items() if name != "protocols" and value is not None)
    count = len(summary["cases"])
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>",
        f"<title>Evaluation</title><style>{_STYLE}</style><h1>Evaluation of {count} case{'' if count == 1 else 's'}</h1>",
        f"<p class='note'>{escape(adapter or 'the base, without an adapter')} &middot; {escape(said)}</p><p>{_ORACLE}</p>",
    ]
    if summary["without_object"]:
        parts.append(f"<p>Not measured, no object in them: {escape(', '.join(summary['without_object']))}.</p>")
    for protocol, part in summary["protocols"].items():
        rows = [row for row in summary["rows"] if row["protocol"] == protocol]
        parts += [f"<h2>{protocol}</h2>", _table(part), _cases(folder / "overlays" / protocol, rows)]
    parts += [f"<p class='note'>{_READ}</p>", *_reliability(summary["reliability"], objects), "</html>"]
    with write_aside(folder / "report.html") as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")


def _table(part: Mapping[str, Any]) -> str:
    names = [name for name in STATISTICS if is_defined(part["all"][name])]
    units = {"mean_hd95": part["unit"], "mean_false_positive": "mm3" if part["unit"] == "mm" else part["unit"]}
    heads = [f"{name.split('_', 1)[1]}{f', {units[name]}' if name in units else ''}" for name in names]
    lines = [f"<tr><th></th>{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr>"]
    for label, statistics in (("all", part["all"]), *part["labels"].items()):
        cells = [_cell(statistics[name]) if is_defined(statistics[name]) else "" for name in names]
        kind = " class='all'" if label == "all" and statistics is part["all"] else ""
        lines.append(f"<tr{kind}><td>{escape(label)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return f"<div class='wide'><table>{''.join(lines)}</table></div>"


def _cell(statistic: Mapping[str, Any]) -> str:
    value, _, interval = shown(statistic).partition(" ")
    return f"{value} <span>{interval}</span>"


def _cases(folder: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """The worst, median and best case, by the mean Dice of its labels."""
    by_case = {name: nan_mean([r["dice"] for r in rows if r["case"] == name]) for name in {r["case"] for r in rows}}
    order = sorted((dice, name) for name, dice in by_case.items() if not np.isnan(dice))
    if not order:
        return ""
    places = {"worst": 0, "median": (len(order) - 1) // 2, "best": len(order) - 1}
    figures, seen = [], set()
    for word, place in places.items():
        dice, name = order[place]
        if name not in seen:
            title = f"{escape(name)}{f', {word}' if len(order) > 1 else ''}: Dice {dice:.3f}"
            picture = inline_png((folder / f"{name}.png").read_bytes())
            figures.append(f"<figure><img alt='{title}' src='{picture}'><figcaption>{title}</figcaption></figure>")
            seen.add(name)
    return f"<p class='note'>Image, truth, prediction.</p><div class='cases'>{''.join(figures)}</div>"


def _reliability(found: Mapping[str, Mapping[str, float]], objects: Sequence[Mapping[str, Any]]) -> list[str]:
    figure = plot_reliability(objects)
    if figure is None:
        return []
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    heads = "".join(
        f"<th>{head}</th>"
        for head in ("", "objects", "correlation", "mean absolute error", "expected calibration error")
    )
    lines = []
    for name, one in found.items():
        cells = [name, str(one["objects"])]
        for key in ("correlation", "mean_absolute_error", "expected_calibration_error"):
            cells.append("undefined" if np.isnan(one[key]) else f"{one[key]:.3f}")
        lines.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return [
        "<h2>Does the predicted IoU mean something?</h2>",
        "<p class='note'>Every object of every measured slice; red: means of ten bins of predicted IoU.</p>",
        f"<table><tr>{heads}</tr>{''.join(lines)}</table>",
        f"<img alt='predicted against true IoU' src='{inline_png(buffer.getvalue())}'>",
    ]


def draw_case(path: Path, truth: CaseTruth, predicted: np.ndarray) -> None:
    """Write a case's slice with most truth, or else most prediction: the image, the truth's and the prediction's outlines.

    Args:
        path: the PNG.
        truth: of the case.
        predicted: label map ``(K, H, W)``.
    """
    expected = np.zeros_like(predicted)
    for value in truth.present:
        for k in truth.chosen:
            expected[k][truth.mask(value, k)] = value
    k = int(((expected if expected.any() else predicted) > 0).sum((1, 2)).argmax())
    image = truth.case.image[k]
    pictures = [outline(image, label) for label in (np.zeros_like(expected[k]), expected[k], predicted[k])]
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_aside(path) as temporary:
        Image.fromarray(np.concatenate(pictures, 1)).save(temporary, "PNG")
