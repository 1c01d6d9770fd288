"""The page of an inspection: problems first, then label volumes, intensities, a contact sheet and the table of cases."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from sam_lora.data.inspection import CaseReport
from sam_lora.files import write_aside
from sam_lora.page import inline_picture, inline_png
from sam_lora.plots import PALETTE, new_figure

_TIMES = " \N{MULTIPLICATION SIGN} "
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1.5rem; color: #1c2733 }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem } a { color: inherit }
.facts, .note, figcaption span { color: #5b6875 } .note { margin: 0 0 .8rem }
.problems { border-left: 4px solid #c0392b; background: #fdf3f2; padding: .8rem 1.2rem; margin: 1.2rem 0; border-radius: 4px }
.well { border-left: 4px solid #1e8449; background: #f1f9f4; padding: .8rem 1.2rem; margin: 1.2rem 0; border-radius: 4px }
.problems h2 { margin: 0 0 .4rem; color: #a93226 } .problems table { font-size: 1rem }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .9rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e3e8ee }
td { white-space: nowrap } td:last-child { white-space: normal }
tr.bad td:first-child, figure.bad figcaption { color: #a93226; font-weight: 600 } figcaption span { font-weight: 400 }
.problems td { border: 0; padding: .1rem 1.2rem .1rem 0 } th { color: #5b6875; font-weight: 600; white-space: nowrap }
.wide { overflow-x: auto } img.chart { max-width: 100%; display: block; margin-bottom: 1rem }
.legend span { margin-right: 1.2rem; white-space: nowrap } .legend i { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border-radius: 2px }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: .9rem }
figure { margin: 0; font-size: .8rem; line-height: 1.35 } figure img { width: 100%; aspect-ratio: 1; object-fit: contain; background: #000; border-radius: 4px }
figure.bad img { outline: 3px solid #c0392b } figcaption { overflow-wrap: anywhere }
"""


def write_inspection(
    path: Path, title: str, reports: Sequence[CaseReport], between: Sequence[str], labels: Mapping[int, str]
) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        title: what was inspected.
        reports: one per case.
        between: problems between cases.
        labels: value -> name.
    """
    sections = Counter(r.section for r in reports)
    facts = [*(f"{s} {n}" for s, n in sections.items()), f"patients {len({r.patient for r in reports})}"]
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>",
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{escape(title)}: {_counted(len(reports), 'case')}</h1><div class='facts'>{' &middot; '.join(facts)}</div>",
        _problems(reports, between),
    ]
    if any(r.picture is not None for r in reports):
        order = sorted((r for r in reports if r.picture is not None), key=lambda r: not r.problems)
        note = "The slice with most label, as the network sees it; cases with problems come first."
        sheet = f"<div class='sheet'>{''.join(map(_cell, order))}</div>"
        parts += [f"<h2>Contact sheet</h2><p class='note'>{note}</p>", _legend(reports, labels), sheet]
    if any(r.histogram.size for r in reports):
        parts += ["<h2>Intensities against the window</h2>", _histograms(reports)]
    if any(r.volumes for r in reports):
        parts += ["<h2>How much of each label</h2><p class='note'>One dot per case.</p>", _volumes(reports, labels)]
    parts += ["<h2>Cases</h2>", _table(reports, labels), "</html>"]
    with write_aside(path) as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _problems(reports: Sequence[CaseReport], between: Sequence[str]) -> str:
    rows = [("between cases", p) for p in between]
    rows += [(f"<a href='#{escape(r.name)}'>{escape(r.name)}</a>", p) for r in reports for p in r.problems]
    if not rows:
        return "<div class='well'>No problem found.</div>"
    cells = "".join(f"<tr><td>{where}</td><td>{escape(what)}</td></tr>" for where, what in rows)
    return f"<div class='problems'><h2>{_counted(len(rows), 'problem')}</h2><table>{cells}</table></div>"


def _volumes(reports: Sequence[CaseReport], labels: Mapping[int, str]) -> str:
    """A row of dots per label; on a logarithmic scale where the labels differ much."""
    values = sorted({v for r in reports for v in r.volumes}, reverse=True)
    figure = new_figure(11, 0.9 + (0.32 if len(values) < 13 else 0.2) * len(values))
    axes = figure.add_subplot()
    for place, value in enumerate(values):
        amounts = [r.volumes[value] for r in reports if value in r.volumes]
        height = place + np.resize([0, 0.15, -0.15, 0.08, -0.08], len(amounts))
        axes.plot(amounts, height, ".", color=PALETTE[(value - 1) % len(PALETTE)] / 255, markersize=7, alpha=0.7)
    axes.set_yticks(range(len(values)), [f"{labels[v]} ({v})" if v in labels else str(v) for v in values], fontsize=9)
    axes.set_ylim(-0.5, len(values) - 0.5)
    every = [amount for r in reports for amount in r.volumes.values()]
    if max(every) > 50 * min(every):
        axes.set_xscale("log")
    else:
        axes.set_xlim(left=0)
    axes.set_xlabel(f"{' or '.join(sorted({r.unit for r in reports if r.volumes}))} per case")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return _chart(figure, "amount of each label per case")


def _histograms(reports: Sequence[CaseReport]) -> str:
    """Every case's histogram, in its own units where all have one window, else relative to each case's window."""
    shown = [r for r in reports if r.histogram.size]
    is_one = len({r.window for r in shown}) == 1
    figure = new_figure(11, 3)
    axes = figure.add_subplot()
    low, high = shown[0].window if is_one else (0.0, 1.0)
    for r in shown:
        centres = r.intensities[0] + (np.arange(r.histogram.size) + 0.5) / r.histogram.size * (
            r.intensities[2] - r.intensities[0]
        )
        places = centres if is_one else (centres - r.window[0]) / max(r.window[1] - r.window[0], 1e-6)
        axes.plot(places, np.where(r.histogram > 0, r.histogram, np.nan), linewidth=1, alpha=0.5,
                  color="#c0392b" if r.problems else "#2471a3")  # fmt: skip
    axes.axvspan(low, high, color="#f4d03f", alpha=0.15)
    for place, name in ((low, "black"), (high, "white")):
        axes.axvline(place, color="#7d6608", linewidth=1, linestyle="--")
        axes.annotate(
            name, (place, 1), (3, -10), xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=9
        )
    axes.set_yscale("log")
    axes.set_ylabel("share of voxels")
    axes.set_xlabel("stored intensity" if is_one else "intensity relative to the case's own window")
    axes.spines[["top", "right"]].set_visible(False)
    note = (
        "Yellow: the window, from black to white; what lies outside is cut off. One line per case, red with problems."
    )
    return f"<p class='note'>{note}</p>{_chart(figure, 'intensity histograms against the window')}"


def _chart(figure: object, name: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")  # type: ignore[attr-defined]
    return f"<img class='chart' alt='{name}' src='{inline_png(buffer.getvalue())}'>"


def _legend(reports: Sequence[CaseReport], labels: Mapping[int, str]) -> str:
    rows, values = [], sorted({v for r in reports for v in r.volumes})
    if len(values) > len(PALETTE):
        return "<p class='note'>There are more labels than colours: labels whose values differ by 7 share one.</p>"
    for value in values:
        red, green, blue = PALETTE[(value - 1) % len(PALETTE)]
        name = escape(labels.get(value, str(value)))
        rows.append(f"<span><i style='background: rgb({red}, {green}, {blue})'></i>{name}</span>")
    return f"<p class='legend'>{''.join(rows)}</p>"


def _cell(report: CaseReport) -> str:
    name, kind = escape(report.name), " class='bad'" if report.problems else ""
    picture = "" if report.picture is None else inline_picture(report.picture)
    where = report.section if report.shape[2] == 1 else f"{report.section}, slice {report.slice}"
    caption = f"<figcaption>{name}<br><span>{where}</span></figcaption>"
    return f"<figure{kind}><img alt='{name}' src='{picture}'>{caption}</figure>"


def _table(reports: Sequence[CaseReport], labels: Mapping[int, str]) -> str:
    heads = (
        "case",
        "patient",
        "section",
        "shape",
        "spacing, mm",
        "least, median, largest",
        "below, above window",
        "labels",
    )
    rows = [f"<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>"]
    for r in reports:
        digits = ",.0f" if r.unit == "pixels" else ".3g"
        amounts = ", ".join(f"{labels.get(v, str(v))} {amount:{digits}} {r.unit}" for v, amount in r.volumes.items())
        spacing = _TIMES.join(f"{s:.3g}" for s in r.spacing) if r.unit == "ml" else ""
        cells = [r.name, r.patient, r.section, _TIMES.join(map(str, r.shape)), spacing,
                 ", ".join(f"{v:.4g}" for v in r.intensities), ", ".join(f"{c:.1%}" for c in r.clipped), amounts]  # fmt: skip
        kind = " class='bad'" if r.problems else ""
        rows.append(f"<tr id='{escape(r.name)}'{kind}>{''.join(f'<td>{escape(c)}</td>' for c in cells)}</tr>")
    return f"<div class='wide'><table>{''.join(rows)}</table></div>"
