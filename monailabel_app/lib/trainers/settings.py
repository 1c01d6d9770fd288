"""What a client may choose for a training, as it is shown and as it comes back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monailabel_app.lib.infers.options import AXES, slice_axis

PRESETS = ("fast", "accurate", "decoder")
# A short training on top of another one moves it more than it teaches (`benchmark.py loop --start champion`).
STARTS = ("base", "champion")
STRIDE = 16  # image_size is a multiple of it
MINUTES = 2.0
# Slices, not time: on a CPU a training from the base that reaches them within its minutes makes of the same labels the
# same adapter, whatever else the machine does.
SLICES = 600


class TrainingError(ValueError):
    """There is nothing to train on, or a setting cannot be used."""


def options(preset: str, slices: int) -> dict[str, Any]:
    """What a client shows.

    Args:
        preset: that comes first.
        slices: that are trained on where a client says nothing.

    Returns:
        ``minutes`` and ``slices``, of which what is over first ends a training (0 slices: the minutes alone),
        ``image_size`` in pixels (0: by the images), ``axis``, and ``start``: what it starts from.
    """
    presets = [preset, *(one for one in PRESETS if one != preset)]
    return {
        "preset": presets,
        "minutes": MINUTES,
        "slices": slices,
        "image_size": 0,
        "axis": list(AXES),
        "start": list(STARTS),
    }


def read_settings(request: Mapping[str, Any], preset: str, slices: int) -> dict[str, Any]:
    """Read a request.

    Args:
        request: of the client.
        preset: where it names none.
        slices: where it names neither slices nor minutes; who names minutes alone wants them whole.

    Returns:
        ``{"preset", "minutes", "slices", "image_size", "axis", "start"}``.

    Raises:
        TrainingError: if a setting cannot be used; PromptError for an axis.
    """
    size = _whole(request, "image_size", 0, 1024)
    if size % STRIDE:
        raise TrainingError(f"image_size must be a multiple of {STRIDE}, or 0 to fit the images, got {size}.")
    return {
        "preset": _one_of(request, "preset", PRESETS, preset),
        "minutes": _number(request, "minutes", MINUTES, 0.05, 24 * 60),
        "slices": _whole(request, "slices", slices if request.get("minutes") in (None, "") else 0, 10**7),
        "image_size": size,
        "axis": slice_axis(request),
        "start": _one_of(request, "start", STARTS, STARTS[0]),
    }


def _one_of(request: Mapping[str, Any], name: str, known: tuple[str, ...], default: str) -> str:
    value = request.get(name) or default
    value = value[0] if isinstance(value, list) else value
    if value not in known:
        raise TrainingError(f"{name} must be one of {', '.join(known)}, got {value!r}.")
    return str(value)


def _whole(request: Mapping[str, Any], name: str, default: int, most: int) -> int:
    number = _number(request, name, default, 0, most)
    if number != int(number):
        raise TrainingError(f"{name} must be a whole number, got {number:g}.")
    return int(number)


def _number(request: Mapping[str, Any], name: str, default: float, least: float, most: float) -> float:
    value = request.get(name)
    value = default if value is None or value == "" else value
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if isinstance(value, bool) or not least <= number <= most:
        raise TrainingError(f"{name} must be a number from {least:.12g} to {most:.12g}, got {value!r}.")
    return number
