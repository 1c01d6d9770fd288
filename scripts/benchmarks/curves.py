"""The figures of ``benchmark.py active_learning`` as a section of a page and a plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning_page import HEADING, PAGE
from sam_lora.files import write_aside
from sam_lora.plots import new_figure, save_figure

PLOT = "active_learning.png"
SECTION = "## What to label next\n"  # stands before the page's last section


def write_page(figures: Mapping[str, Any], folder: Path) -> None:
    """Write ``active_learning.png`` and its section of ``learning.md``.

    Args:
        figures: what ``benchmark.py active_learning`` found.
        folder: of the documents.
    """
    plot(figures, folder / PLOT)
    page = folder / PAGE
    above, below = page.read_text(encoding="utf-8").split(HEADING)
    above = above.split(SECTION)[0]
    lines = [
        "| strategy | slices seen | automatic, area | against random | jittered box, area | against random |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, found in figures["areas"].items():
        cells = [name, f"{_slices(figures['runs'], name):.0f}"]
        for one in found.values():
            cells += [
                _with(one["area"], one["interval"], ""),
                _with(one["difference"], one["difference_interval"], "+"),
            ]
        lines.append("| " + " | ".join(cells) + " |")
    table = "\n".join(lines)
    text = f"""{SECTION}
Made by `python scripts/benchmark.py active_learning --write`. A simulated annotator labels what a strategy shows him: hippocampus,
30 cases in the pool, {", ".join(map(str, figures["counts"]))} labelled, {len(figures["runs"])} seeds, the first case shared; {figures["seconds"]:g} s of
training (preset `decoder`, 128 px, without corrections, the pool's embeddings made before) after each round; every third slice
looked at and measured on cases 61-80. Area: mean Dice over the rounds; 95 % intervals by drawing seeds and cases. Slices seen: mean
over the trainings, which all had the same time; where strategies differ in it, the machine did other work. A strategy whose interval
against `random` holds zero has not been shown to beat it here.

{table}

![Dice over the number of labelled cases]({PLOT})

"""
    with write_aside(page) as temporary:
        temporary.write_text(above + text + HEADING + below, encoding="utf-8")


def _slices(runs: Mapping[str, Any], name: str) -> float:
    return float(np.mean([one["slices"] for found in runs.values() for one in found[name]]))


def _with(value: float | None, interval: tuple[float, float] | None, sign: str) -> str:
    if value is None or interval is None:
        return ""
    low, high = interval
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def plot(figures: Mapping[str, Any], path: Path) -> None:
    """Draw mean Dice over the number of labelled cases, a line for each strategy, with a band from the lowest to the highest seed."""
    figure = new_figure(10, 4)
    runs = figures["runs"]
    for number, protocol in enumerate(("automatic", "jittered_box"), 1):
        axes = figure.add_subplot(1, 2, number)
        for name in next(iter(runs.values())):
            curves = np.array(
                [[np.mean(list(one["dice"][protocol].values())) for one in found[name]] for found in runs.values()]
            )
            (line,) = axes.plot(figures["counts"], curves.mean(0), marker="o", markersize=4, label=name)
            axes.fill_between(figures["counts"], curves.min(0), curves.max(0), alpha=0.12, color=line.get_color())
        axes.set_xlabel("labelled cases")
        axes.set_ylabel("Dice")
        axes.set_title(protocol.replace("_", " "))
        axes.legend(fontsize=8, loc="lower right")
    save_figure(figure, path)
