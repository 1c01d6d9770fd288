"""How far a training is, read from what it has written so far."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sam_lora.files import read_json

SETTINGS = "settings.json"
_HISTORY = "runs/train-*/history.json"


def latest_progress(folder: Path) -> dict[str, Any]:
    """Of the latest training, as clients show it: epochs done, about how many there will be, time, best Dice.

    Args:
        folder: see :func:`latest_run`.

    Returns:
        ``epoch``, ``total_epochs``, ``total_time``, ``seconds_left``, ``best_metric`` (the challenger's Dice from a
        jittered box on the held-out cases, 0 before it is judged), ``model`` and more; empty before the first one.
    """
    run = latest_run(folder)
    if run is None:
        return {}
    settings = read_json(run / SETTINGS)
    history = sorted(run.glob(_HISTORY))
    rows = json.loads(history[-1].read_text(encoding="utf-8")) if history else []
    seconds = rows[-1]["seconds"] if rows else 0.0
    left = _seconds_left(settings, rows)
    expected = len(rows) if not seconds else round(len(rows) * (seconds + left) / seconds)
    verdict = run / "verdict.json"
    judged = read_json(verdict) if verdict.is_file() else {}
    return {
        "epoch": len(rows),
        "total_epochs": max(expected, 1),
        "total_time": f"{seconds:.0f} s",
        "seconds_left": round(left) if not judged else 0,
        "best_metric": (judged.get("scores", {}).get("jittered_box") or {}).get("challenger") or 0.0,
        "model": settings["name"],
        **{key: settings[key] for key in ("device", "parent", "training_cases", "held_out_cases")},
        **{key: judged[key] for key in ("promoted", "why") if key in judged},
    }


def _seconds_left(settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> float:
    """Until the minutes are over, or the slices at the pace so far."""
    seconds, slices = (rows[-1]["seconds"], rows[-1]["slices"]) if rows else (0.0, 0)
    wanted = settings.get("slices", 0)  # trainings of an earlier version have none
    by_time = 60 * settings["minutes"] - seconds
    by_slices = (wanted - slices) * seconds / slices if wanted and slices else by_time
    return max(0.0, min(by_time, by_slices))


def latest_run(folder: Path) -> Path | None:
    """The folder of the latest training; None before the first one.

    Args:
        folder: of the trainings, each in one of its own, named by its time.
    """
    return max((path.parent for path in folder.glob(f"*/{SETTINGS}")), default=None)
