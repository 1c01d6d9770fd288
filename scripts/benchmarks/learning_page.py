"""The figures of ``benchmark.py learning`` as a table, a page and a plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.measuring import figure_of
from benchmarks.peers import medsam, unet
from benchmarks.peers.ours import COMMON, FULL_RATE, PROMPTS
from sam_lora.evaluation.summary import shown
from sam_lora.files import write_aside
from sam_lora.plots import new_figure, save_figure

PAGE, PLOT = "learning.md", "learning.png"
HEADING = "## Beside what one would use instead\n"  # the page's last section: what is written here replaces it


def table(figures: Mapping[str, Any]) -> str:
    """A Markdown table per number of cases; test figures where they were read, else those of the validation cases."""
    parts = []
    for count, runs in figures["runs"].items():
        part = "test" if all("test" in run for run in runs.values()) else "validation"
        chosen = figures["chosen"].get(count)
        title = f"{count} training case{'' if count == '1' else 's'}, Dice on the {part} cases"
        lines = [
            title + ("" if chosen is None else "; ours is the row in bold, the best on the validation cases"), "",
            "| method | jittered box | automatic, 3D | training s | slices seen | ours minus it, jittered box | automatic |",
            "|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for name, run in runs.items():
            differences = figures["differences"].get(count, {}).get(name, {})
            cells = [
                f"**{run['title']}**" if name == chosen else run["title"],
                *(_figure(run[part], protocol) for protocol in ("jittered_box", "automatic")),
                f"{run['training']['seconds']:.0f}",
                str(run["training"]["slices"]),
                *(_difference(differences.get(protocol)) for protocol in ("jittered_box", "automatic")),
            ]
            lines.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _figure(measured: Mapping[str, Any], protocol: str) -> str:
    figure = figure_of(measured, protocol)
    return "" if figure is None or figure["value"] is None else shown(figure)


def _difference(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    interval = found["interval"]
    bounds = "" if interval is None else f" [{interval[0]:+.3f}, {interval[1]:+.3f}]"
    verdict = {"second": "ahead", "first": "behind", None: "no difference shown"}[found["ahead"]]
    return f"{found['difference']:+.3f}{bounds}, {verdict}"


def write_page(figures: Mapping[str, Any], folder: Path) -> None:
    """Write ``learning.png`` and the last section of ``learning.md``; what stands above it stays.

    Raises:
        ValueError: if the test cases were not measured: the page shows nothing else.
    """
    if not all("test" in run for runs in figures["runs"].values() for run in runs.values()):
        raise ValueError("The page shows test figures: run without --validation_only before --write.")
    plot(figures, folder / PLOT)
    settings, whole = figures["settings"], PROMPTS["whole"]
    page = folder / PAGE
    above = page.read_text(encoding="utf-8").split(HEADING)[0] if page.exists() else "# Learning from few cases\n\n"
    text = f"""{HEADING}
Made by `python scripts/benchmark.py learning --cases {",".join(figures["runs"])} --write`; every figure of this section was measured in that run.

MR hippocampus (Medical Segmentation Decathlon), two labels, sorted by name: cases 1-50 train, 51-60 validate, 61-80
test. All methods were given the same training cases and {settings["minutes"]:g} minutes of training each on
{settings["threads"]} thread{"" if settings["threads"] == 1 else "s"} of a machine with {settings["cores"]} cores
(ours and the U-Net that for each of two networks, one
for boxes, one for labels). Measured on every {settings["every"]}. slice of the test cases, objects of at least 10 pixels.

- *jittered box*: each object of each slice is asked for by the box of its label, every side moved by up to 10 %: an
  oracle, the same boxes for all methods. Mean Dice per object; 95 % interval over patients.
- *automatic*: no prompt; Dice of each label's volume, in the measured slices.
- *ours* is the preset with the best Dice by boxes on the validation cases, chosen before the test cases were read.
- Ours and full fine-tuning see slices at {COMMON["image_size"]} px, ours for labels at {whole["image_size"]} px, `fit` and peft at their
  network's own {medsam.SIDE} px, the U-Net as they are.
- AdamW at {FULL_RATE:g} for full fine-tuning, {medsam.FIT_RATE:g} for `fit` (its default), {medsam.PEFT_RATE:g} for peft; Adam at {unet.RATE:g} for the U-Net;
  ours as the presets are, for labels a step after {whole["accumulation_steps"]} slices and {whole["decoder_learning_rate"]:g} for the decoder. Ours and full
  fine-tuning step by the optimizers' fused kernel, the others as their code has it.
- *ours minus it*: paired by patient; "ahead" or "behind" where the 95 % interval excludes zero.

{table(figures)}

![Dice over the number of training cases]({PLOT})
"""
    with write_aside(page) as temporary:
        temporary.write_text(above + text, encoding="utf-8")


def plot(figures: Mapping[str, Any], path: Path) -> None:
    """Draw Dice over the number of cases, a line for each method, of one colour in both panels, with intervals."""
    figure = new_figure(10, 5)
    counts = list(figures["runs"])
    for number, protocol in enumerate(("jittered_box", "automatic"), 1):
        axes = figure.add_subplot(1, 2, number)
        for place, name in enumerate(figures["runs"][counts[0]]):
            runs = [figures["runs"][count][name] for count in counts]
            found = [figure_of(run["test"], protocol) for run in runs]
            if any(one is None for one in found):
                continue
            values = [one["value"] for one in found if one is not None]
            ends = [one["interval"] or (one["value"],) * 2 for one in found if one is not None]
            bars = [[v - low for v, (low, _) in zip(values, ends, strict=True)],
                    [high - v for v, (_, high) in zip(values, ends, strict=True)]]  # fmt: skip
            xs = [int(count) * 1.03 ** (place - 3) for count in counts]  # beside each other, not over each other
            axes.errorbar(xs, values, yerr=bars, marker="o", markersize=4, capsize=2, color=f"C{place}",
                          label=runs[0]["title"])  # fmt: skip
        axes.set_xscale("log")
        axes.set_xticks([int(count) for count in counts], counts)
        axes.minorticks_off()
        axes.set_xlabel("training cases")
        axes.set_ylabel("Dice")
        axes.set_title(protocol.replace("_", " "))
        if number == 1:  # every method has boxes; below the panels, it hides no line
            figure.legend(*axes.get_legend_handles_labels(), fontsize=7, loc="outside lower center", ncols=4)
    save_figure(figure, path)
