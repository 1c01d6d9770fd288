"""What a target prints of what was reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.measuring import difference, figure_of
from benchmarks.targets import Target
from sam_lora.evaluation.summary import shown


def seconds_per_slice(training: Mapping[str, Any]) -> float | None:
    """After the first epoch, which fills most of the caches (a balanced epoch draws some slices twice, others never).

    None for a training of one epoch.
    """
    history = training.get("history", [])
    if len(history) < 2:
        return None
    first, last = history[0], history[-1]
    return float((last["seconds"] - first["seconds"]) / (last["slices"] - first["slices"]))


def against_accurate(runs: Mapping[str, Any], protocol: str) -> list[str]:
    """How fast the other presets train, and how good they are, beside ``accurate``; nothing where it did not run."""
    lines = []
    for name in [name for name in ("fast", "decoder") if name in runs and "accurate" in runs]:
        mine, other = (seconds_per_slice(runs[one]["training"]) for one in (name, "accurate"))
        speed = "an epoch not finished twice" if not mine or not other else f"{other / mine:.1f}x as fast an epoch"
        found = difference(runs[name]["test"], runs["accurate"]["test"], protocol)
        dice = "" if found is None else f", {protocol} Dice {found['difference']:+.3f} {interval_text(found)}"
        lines.append(f"{name} beside accurate: {speed}{dice}")
    return lines


def interval_text(found: Mapping[str, Any]) -> str:
    """A difference's 95 % interval over patients."""
    return "" if found["interval"] is None else "[{:+.3f}, {:+.3f}]".format(*found["interval"])


def target_lines(target: Target, method: str, run: Mapping[str, Any]) -> list[str]:
    """What a method reached: seconds, slices seen, the curve where there is one, and its figures."""
    training = run["training"]
    lines = [f"{method}: {training['seconds']:.0f} s of training, {training['slices']} slices seen"]
    if training["slices"]:
        lines[0] += f", {training['slices'] / training['seconds']:.1f} a second"
    if target.validate:
        lines += [f"  epoch {row['epoch']}: loss {row['loss']:.3f}, validation Dice {row['val_mean_dice']:.3f}"
                  for row in training.get("history", []) if row["val_mean_dice"] is not None]  # fmt: skip
    for protocol in target.protocols:
        figure = figure_of(run["test"], protocol)
        if figure is not None:
            wanted = target.at_least.get(protocol)
            goal = "" if wanted is None or method == "base" else f", to reach {wanted}"
            lines.append(f"  {protocol} Dice {shown(figure)}{goal}")
    if target.protocols == ("jittered_box", "clicks_1"):
        lines += [f"  predicted IoU, {which}: correlation {one['correlation']:.3f}, mean absolute error "
                  f"{one['mean_absolute_error']:.3f} ({one['objects']} objects)"
                  for which, one in run["test"]["reliability"].items()]  # fmt: skip
    return lines
