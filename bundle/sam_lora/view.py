"""One slice on matplotlib axes: the image, masks and their outlines, prompts, and where in the patient its edges are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from sam_lora.plots import colour_of, draw_prompts, new_figure, save_figure
from sam_lora.prompts import Point
from sam_lora.shown import OPPOSITE, ShownImage

DARK, PALE = "#101010", "#dddddd"
OPACITY = 0.3  # of masks: what lies under them stays readable
SHADOW = [withStroke(linewidth=2, foreground="black")]
Drawn = tuple[str, np.ndarray, Mapping[int, Sequence[Point]]]  # title, label map, prompts


class SliceView:
    """Draws slices of a case, each time only what is new.

    The axes count in pixels of the slice, 0 being the left and upper edge of the stored image. They are turned so that
    right, anterior and superior are to the left and above, as radiologists have it, where the file says where that is.

    Args:
        axes: empty.
        case: what is shown.
    """

    def __init__(self, axes: Axes, case: ShownImage) -> None:
        self.axes, self._slices = axes, case.slices_last
        self.size = height, width = self._slices.shape[1], self._slices.shape[0]
        axes.set_facecolor(DARK)
        axes.axis("off")
        extent = (0, width, height, 0)
        self._image = axes.imshow(
            np.zeros(self.size), "gray", vmin=0, vmax=255, extent=extent, aspect=case.aspect, interpolation="bilinear"
        )
        self._mask = axes.imshow(
            np.zeros((*self.size, 4)), extent=extent, aspect=case.aspect, interpolation="nearest", zorder=2
        )
        axes.autoscale(False)
        self._lines: list[Artist] = []
        self._prompts: list[Artist] = []
        if case.towards is not None:
            self._turn(*case.towards)

    def _turn(self, x: str, y: str) -> None:
        """Turn the axes as radiologists look, and write the directions beside them."""
        if x in "RAS":
            self.axes.invert_xaxis()
            x = OPPOSITE[x]
        if y in "RAS":
            self.axes.invert_yaxis()
            y = OPPOSITE[y]
        for letter, where in (
            (OPPOSITE[x], (0.01, 0.5)),
            (x, (0.99, 0.5)),
            (OPPOSITE[y], (0.5, 0.99)),
            (y, (0.5, 0.01)),
        ):
            sides = {0.01: ("left", "bottom"), 0.99: ("right", "top"), 0.5: ("center", "center")}
            self.axes.text(
                *where, letter, transform=self.axes.transAxes, color=PALE, fontsize=11, weight="bold", zorder=5,
                ha=sides[where[0]][0], va=sides[where[1]][1], path_effects=SHADOW,
            )  # fmt: skip

    def show_slice(self, k: int) -> None:
        """Draw the image of slice ``k``."""
        self._image.set_data(np.swapaxes(self._slices[:, :, k], 0, 1))

    def show_mask(self, label: np.ndarray) -> None:
        """Draw the objects of a label map ``(H, W)``, each in its colour with a thin outline."""
        for line in self._lines:
            line.remove()
        self._lines = []
        rgba = np.zeros((*self.size, 4), np.float32)
        x, y = (np.arange(-0.5, side + 1) for side in self.size[::-1])
        for value in np.unique(label[label > 0]):
            inside = label == value
            rgba[inside] = (*colour_of(value), OPACITY)
            outline = self.axes.contour(
                x, y, np.pad(inside, 1), [0.5], colors=[colour_of(value)], linewidths=1.2, zorder=3
            )
            self._lines.append(outline)
        self._mask.set_data(rgba)

    def show_prompts(self, points: Mapping[int, Sequence[Point]]) -> None:
        """Draw the prompts of each object, known by its value."""
        for artist in self._prompts:
            artist.remove()
        self._prompts = [a for value, some in points.items() for a in draw_prompts(self.axes, some, colour_of(value))]


def save_slices(path: Path, case: ShownImage, drawn: Mapping[int, Drawn], columns: int = 1) -> None:
    """Write slices as PNG, in rows of ``columns``.

    Args:
        path: the PNG.
        case: what is shown.
        drawn: slice -> title, label map ``(H, W)`` and prompts, known by their object's value.
        columns: at most.
    """
    width, height = case.slices_last.shape[0], case.slices_last.shape[1] * case.aspect
    columns = min(columns, len(drawn))
    rows = -(-len(drawn) // columns)
    side = 8.0 if len(drawn) == 1 else 3.2  # inches
    scale = side / max(width, height)
    figure = new_figure(scale * width * columns, (scale * height + 0.4) * rows)
    figure.set_facecolor(DARK)
    for place, (k, (title, label, points)) in enumerate(drawn.items(), 1):
        view = SliceView(figure.add_subplot(rows, columns, place), case)
        view.axes.set_title(title, color=PALE, fontsize=11)
        view.show_slice(k)
        view.show_mask(label)
        view.show_prompts(points)
    save_figure(figure, path)
