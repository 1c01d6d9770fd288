"""Pictures: loss curves, and masks drawn over slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from scipy import ndimage

from sam_lora.files import write_aside
from sam_lora.prompts import BACKGROUND, BOX_END, BOX_START, FOREGROUND, Point

PALETTE = np.array(
    [[230, 85, 60], [65, 150, 230], [250, 190, 50], [90, 190, 110], [170, 110, 220], [60, 200, 200], [240, 130, 190]]
)


def new_figure(width: float, height: float) -> Figure:
    """A figure of ``width`` x ``height`` inches that needs no screen and no global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, aside and renamed."""
    with write_aside(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def plot_history(history: Sequence[Mapping[str, Any]], losses: Sequence[float], path: Path) -> None:
    """Draw the loss of each iteration, its mean over each epoch and, where there is one, the validation Dice.

    Args:
        history: one row per epoch with ``epoch``, ``loss`` and ``val_mean_dice`` (None where it was not measured).
        losses: one per iteration, from the first.
        path: the PNG.
    """
    figure = new_figure(6, 3.5)
    axes = figure.add_subplot()
    places = np.arange(1, len(losses) + 1) * (len(history) / max(1, len(losses)))
    window = max(1, len(losses) // 20)
    smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
    axes.plot(places, losses, color="#e6b0aa", linewidth=0.8, label="each iteration")
    axes.plot(places[window - 1 :], smooth, color="#c0392b", label=f"mean of {window} iterations")
    axes.plot(
        [row["epoch"] for row in history], [row["loss"] for row in history], "o", color="#7b241c", label="epoch mean"
    )
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss")
    axes.set_ylim(bottom=0)
    validated = [row for row in history if row.get("val_mean_dice") is not None]
    if validated:
        right = axes.twinx()
        values = [row["val_mean_dice"] for row in validated]
        right.plot([row["epoch"] for row in validated], values, "s-", color="#2471a3", label="validation Dice")
        right.set_ylabel("validation Dice")
        right.set_ylim(0, 1)
        right.legend(loc="lower right", fontsize=8)
    axes.legend(loc="upper center", fontsize=8)
    axes.grid(alpha=0.3)
    save_figure(figure, path)


def overlay(image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Colour the objects of a label map over a slice.

    Args:
        image: ``(H, W)`` or ``(H, W, 3)``, uint8.
        label: ``(H, W)``, integers, 0 transparent.

    Returns:
        ``(H, W, 3)``, uint8.
    """
    rgb = image if image.ndim == 3 else np.repeat(image[..., None], 3, -1)
    colour = PALETTE[(label - 1) % len(PALETTE)]
    visible = (label > 0)[..., None]
    return np.where(visible, 0.5 * rgb + 0.5 * colour, rgb).astype(np.uint8)


def colour_of(value: int) -> tuple[float, float, float]:
    """The colour of an object in a label map: red, green and blue in [0, 1]."""
    red, green, blue = PALETTE[(value - 1) % len(PALETTE)] / 255
    return float(red), float(green), float(blue)


def draw_prompts(axes: Axes, points: Sequence[Point], colour: tuple[float, float, float]) -> list[Artist]:
    """Draw the prompts of one object: a plus on the object, a white cross beside it, and boxes.

    Args:
        axes: count in pixels of the slice.
        points: (x, y, label), box corners among them in pairs.
        colour: of the object.
    """
    artists: list[Artist] = []
    for label, marker in ((FOREGROUND, "P"), (BACKGROUND, "X")):
        places = [(x, y) for x, y, one in points if one == label]
        if places:
            face, edge = (colour, "black") if label == FOREGROUND else ("white", colour)
            xs, ys = zip(*places, strict=True)
            artists.append(axes.scatter(xs, ys, s=60, c=[face], marker=marker, edgecolors=edge, zorder=4))
    starts, ends = ([(x, y) for x, y, one in points if one == label] for label in (BOX_START, BOX_END))
    for (x0, y0), (x1, y1) in zip(starts, ends, strict=True):
        box = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=1, linestyle="--", zorder=4)
        artists.append(axes.add_patch(box))
    return artists


def outline(image: np.ndarray, label: np.ndarray, size: int = 240) -> np.ndarray:
    """A slice with the borders of its objects, as large as a contact sheet wants it.

    Args:
        image: ``(H, W)`` or ``(H, W, 3)``, uint8.
        label: ``(H, W)``, integers, 0 background.
        size: of the longest side of the result.

    Returns:
        ``(H', W', 3)``, uint8.
    """
    height, width = label.shape
    shape = (max(1, width * size // max(label.shape)), max(1, height * size // max(label.shape)))
    rgb = np.array(Image.fromarray(image).convert("RGB").resize(shape, Image.Resampling.BILINEAR))
    values = np.asarray(Image.fromarray(label.astype(np.int32)).resize(shape, Image.Resampling.NEAREST))
    # Two pixels wide: what is within two pixels of another value, or of the picture's edge.
    same = (ndimage.minimum_filter(values, 5, mode="constant") == values) & (
        ndimage.maximum_filter(values, 5) == values
    )
    border = (values > 0) & ~same
    rgb[border] = PALETTE[(values[border] - 1) % len(PALETTE)]
    return rgb


def save_panels(panels: Mapping[str, np.ndarray], path: Path) -> None:
    """Write pictures side by side, each under its title."""
    height, width = next(iter(panels.values())).shape[:2]
    figure = new_figure(3.2 * len(panels), 3.2 * height / width + 0.4)
    for number, (title, picture) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, len(panels), number)
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(title, fontsize=10)
        axes.axis("off")
    save_figure(figure, path)
