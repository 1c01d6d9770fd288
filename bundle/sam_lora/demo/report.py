"""The demonstration's page: one HTML file with its pictures inside."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sam_lora.files import write_aside
from sam_lora.page import inline_picture, inline_png
from sam_lora.plots import overlay

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1c2733 }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse } th, td { padding: .25rem .9rem; text-align: right; border-bottom: 1px solid #e3e8ee }
th:first-child, td:first-child { text-align: left } tr.mean td { font-weight: 600; border-top: 2px solid #1c2733 }
.panels { display: grid; grid-template-columns: repeat(4, 1fr); gap: .4rem; font-size: .85rem }
.panels img { width: 100%; image-rendering: pixelated } .curves { display: flex } figure { margin: 0; width: 50% } figure img { width: 100% }
.note { color: #51606f }
"""

_TEXT = """
<h2>What this shows, and what it does not</h2>
<ul>
<li>It shows that the whole path runs here: real base weights, training, sealed adapters, evaluation, on real images.</li>
<li>Training and test image are averages of largely the same people, and both carry the same atlas: the adapter is shown
to fit, not to generalise. That takes patients it has not seen.</li>
<li>Every box comes from the ground truth (an oracle), each side moved by up to 10 % of its length. A person draws boxes
of another kind.</li>
<li>The ground truth is a probabilistic atlas cut at 50 %, not a reader's outline of these images.</li>
<li>Research use; not a medical device.</li>
</ul>
<p class="note">Images: MNI152 T1 (FSL, non-commercial licence) and ICBM 2009c nonlinear asymmetric, copyright
1993-2004 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill University.
Structures: Harvard-Oxford subcortical atlas (FSL, non-commercial licence). Base weights: LiteMedSAM (Apache-2.0).</p>
"""


def write_report(
    path: Path,
    results: Sequence[Mapping[str, Any]],
    curves: Mapping[str, Path],
    panels: Sequence[Mapping[str, np.ndarray]],
) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        results: one per column: ``name``, ``dice`` (structure -> mean Dice per object, and "mean"), ``bytes`` of the
            adapter (0 for none), ``seconds`` of training.
        curves: name -> PNG of a loss curve.
        panels: rows of pictures, title -> ``(H, W, 3)`` uint8.
    """
    before, after = results[0]["dice"]["mean"], results[-1]["dice"]["mean"]
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>SAM-LoRA demo</title><style>{_STYLE}</style>",
        "<h1>SAM, taught eleven brain structures from one labelled image</h1>",
        f"<p>Mean Dice per object on the test image rises from <b>{before:.3f}</b> (LiteMedSAM as published) to "
        f"<b>{after:.3f}</b>, with the same boxes.</p>",
        _table(results),
        "<h2>Slices of the test image</h2>",
        *(_row(row) for row in panels),
        "<h2>Training loss</h2><div class='curves'>",
        *(_figure(name, png) for name, png in curves.items()),
        "</div>",
        _TEXT,
        "</html>",
    ]
    with write_aside(path) as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")


def _figure(name: str, png: Path) -> str:
    title = html.escape(name)
    return f"<figure><img alt='loss of {title}' src='{inline_png(png.read_bytes())}'><figcaption>{title}</figcaption></figure>"


def _table(results: Sequence[Mapping[str, Any]]) -> str:
    def line(name: str, cells: Sequence[str], kind: str = "") -> str:
        return f"<tr class='{kind}'><td>{html.escape(name)}</td>{''.join(f'<td>{c}</td>' for c in cells)}</tr>"

    structures = [name for name in results[0]["dice"] if name != "mean"]
    head = "".join(f"<th>{html.escape(result['name'])}</th>" for result in results)
    rows = [line(s, [f"{result['dice'][s]:.3f}" for result in results]) for s in structures]
    rows.append(line("mean over objects", [f"{result['dice']['mean']:.3f}" for result in results], "mean"))
    rows.append(line("adapter, bytes", [f"{result['bytes']:,}" if result["bytes"] else "-" for result in results]))
    rows.append(
        line("training, seconds", [f"{result['seconds']:.0f}" if result["bytes"] else "-" for result in results])
    )
    return f"<table><tr><th>mean Dice per object (slice)</th>{head}</tr>{''.join(rows)}</table>"


def _row(pictures: Mapping[str, np.ndarray]) -> str:
    cells = (
        f"<div><img src='{inline_picture(p)}' alt='{html.escape(t)}'>{html.escape(t)}</div>"
        for t, p in pictures.items()
    )
    return f"<div class='panels'>{''.join(cells)}</div>"


def slice_panels(
    image: np.ndarray, truth: np.ndarray, before: np.ndarray, after: np.ndarray, count: int = 4
) -> list[dict[str, np.ndarray]]:
    """Rows of image, truth, before, after for evenly spaced slices among those that have a prediction.

    Args:
        image: ``(K, H, W)``, uint8; j grows towards the front of the head, which is drawn upwards.
        truth: label map of the same shape.
        before: label map predicted by the base.
        after: label map predicted with the adapter.
        count: rows.
    """
    predicted = np.flatnonzero(after.any((1, 2)))
    chosen = predicted[np.linspace(0, len(predicted) - 1, count + 2).round().astype(int)[1:-1]]
    ys, xs = np.nonzero(truth.any(0))
    window = (slice(max(ys.min() - 15, 0), ys.max() + 15), slice(max(xs.min() - 15, 0), xs.max() + 15))
    rows = []
    for k in chosen:
        labels = {"truth": truth[k], "before (zero-shot)": before[k], "after (adapted)": after[k]}
        pictures = {f"slice {k}": overlay(image[k], np.zeros_like(truth[k]))}
        pictures |= {title: overlay(image[k], label) for title, label in labels.items()}
        rows.append({title: np.ascontiguousarray(p[window][::-1]) for title, p in pictures.items()})
    return rows
