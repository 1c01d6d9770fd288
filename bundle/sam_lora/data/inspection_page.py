"""The page of an inspection: problems first, then a table, label volumes, intensities and a contact sheet."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sam_lora.data.inspection import CaseReport
from sam_lora.files import write_aside
from sam_lora.page import inline_picture, inline_png
from sam_lora.plots import new_figure, overlay

_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1c2733 }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse } th, td { padding: .2rem .8rem; text-align: left; border-bottom: 1px solid #e3e8ee }
.bad { color: #a93226 } .good { color: #1e8449 }
.sheet { display: grid; grid-template-columns: repeat(6, 1fr); gap: .5rem; font-size: .75rem }
.sheet img { width: 100%; image-rendering: pixelated }
"""


def write_inspection(
    path: Path, reports: Sequence[CaseReport], between: Sequence[str], labels: Mapping[int, str]
) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        reports: one per case.
        between: problems between cases.
        labels: value -> name.
    """
    problems = [f"{r.name}: {p}" for r in reports for p in r.problems] + list(between)
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Inspection</title><style>{_STYLE}</style>",
        f"<h1>{len(reports)} cases, {len(problems)} problems</h1>",
        "<ul class='bad'>" + "".join(f"<li>{html.escape(p)}</li>" for p in problems) + "</ul>"
        if problems
        else "<p class='good'>No problem found.</p>",
        "<h2>Label volumes and intensities</h2>",
        f"<img alt='label volumes and intensities' src='{_charts(reports, labels)}'>",
        "<h2>Cases</h2>",
        _table(reports, labels),
        "<h2>Contact sheet: the slice with most label</h2><div class='sheet'>",
        *(_cell(r) for r in reports if r.picture is not None),
        "</div></html>",
    ]
    with write_aside(path) as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")


def _table(reports: Sequence[CaseReport], labels: Mapping[int, str]) -> str:
    rows = [
        "<tr><th>case</th><th>section</th><th>shape</th><th>spacing mm</th><th>least, median, largest</th><th>labels, ml</th></tr>"
    ]
    for r in reports:
        volumes = ", ".join(f"{labels.get(v, str(v))} {ml:.3g}" for v, ml in r.volumes.items())
        cells = [r.name, r.section, " x ".join(map(str, r.shape)), " x ".join(f"{s:.3g}" for s in r.spacing),
                 ", ".join(f"{v:.4g}" for v in r.intensities), volumes]  # fmt: skip
        kind = " class='bad'" if r.problems else ""
        rows.append(f"<tr{kind}>{''.join(f'<td>{html.escape(c)}</td>' for c in cells)}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _cell(report: CaseReport) -> str:
    image, label = report.picture  # type: ignore[misc]
    return f"<div><img alt='{html.escape(report.name)}' src='{inline_picture(overlay(image, label))}'>{html.escape(report.name)}</div>"


def _charts(reports: Sequence[CaseReport], labels: Mapping[int, str]) -> str:
    figure = new_figure(10, 3.2)
    left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    values = sorted({v for r in reports for v in r.volumes})
    for place, value in enumerate(values):
        millilitres = [r.volumes[value] for r in reports if value in r.volumes]
        spread = np.linspace(-0.15, 0.15, len(millilitres)) if len(millilitres) > 1 else [0.0]
        left.plot([place + s for s in spread], millilitres, ".", color="#2471a3")
    left.set_xticks(range(len(values)), [labels.get(v, str(v)) for v in values], rotation=30, ha="right", fontsize=8)
    left.set_ylabel("ml per case")
    for r in reports:
        if r.histogram.size:
            share = r.histogram / max(1, r.histogram.sum())
            right.plot(np.linspace(r.intensities[0], r.intensities[2], share.size), share, linewidth=0.7, alpha=0.6)
    right.set_xlabel("stored intensity")
    right.set_ylabel("share of voxels")
    right.set_yscale("log")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100, format="png")
    return inline_png(buffer.getvalue())
