"""What the window shows: a slice, a title, a line that says what goes on, names and help; redrawn as little as can be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.backend_bases import Event, MouseEvent
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from sam_lora.plots import colour_of
from sam_lora.shown import ShownImage
from sam_lora.view import DARK, PALE, SHADOW, SliceView

HELP = """\
left click      on the object
right click     beside the object
drag            box around it,
                one an object
wheel, up down  other slice
page up down    ten slices on
n               next object
p               propagate to the
                whole volume
Escape          stop propagating
u               undo last prompt
c               clear the object
s               save
h               hide or show this"""
LEFT, LEFT_OF_HELP = 0.01, 0.26  # of the slice, as a share of the window


class Screen:
    """Lays out a figure.

    Title, status and rubber band lie on top of the rest and are drawn anew without it, in a millisecond instead of a
    hundred, where the canvas can do that.

    Args:
        figure: empty, on a canvas of any kind.
        case: what is shown.

    Attributes:
        view: the slice.
        title: the text above it.
        status: the text below it.
        help: the text beside it.
    """

    def __init__(self, figure: Figure, case: ShownImage) -> None:
        self._figure = figure
        self.canvas: Any = figure.canvas  # Any: what Agg's can do, its base class does not have
        can_blit = self.canvas.supports_blit
        figure.set_facecolor(DARK)
        self.view = SliceView(figure.add_axes(_place(LEFT_OF_HELP)), case)
        style: dict[str, Any] = {"color": PALE, "ha": "center", "va": "center", "animated": can_blit}
        self.title = figure.text(0.5, 0.965, "", fontsize=13, **style)
        self.status = figure.text(0.5, 0.025, "", fontsize=11, **style)
        self.help = figure.text(
            0.012, 0.93, HELP, color=PALE, fontsize=9.5, family="monospace", va="top", linespacing=1.6
        )
        self._names: list[Text] = []
        self._band = Rectangle((0, 0), 0, 0, fill=False, color=PALE, animated=can_blit, visible=False, zorder=6)
        self.view.axes.add_patch(self._band)
        self._on_top = (self.title, self.status, self._band) if can_blit else ()
        self._beneath: Any = None  # the picture without what is on top
        self.canvas.mpl_connect("draw_event", self._drawn)

    def pixel(self, event: MouseEvent) -> tuple[float, float]:
        """Where on the slice an event is, in pixels; on its edge where it is beside."""
        x, y = self.view.axes.transData.inverted().transform((event.x, event.y))
        height, width = self.view.size
        return min(max(float(x), 0.0), float(width)), min(max(float(y), 0.0), float(height))

    def say(self, text: str) -> None:
        """Say what goes on, at once."""
        self.status.set_text(text)
        self._draw_on_top()

    def show_band(self, first: tuple[float, float], last: tuple[float, float]) -> None:
        """Show a rubber band between two points of the slice, at once."""
        self._band.set_bounds(*first, last[0] - first[0], last[1] - first[1])
        self._band.set_visible(True)
        self._draw_on_top()

    def hide_band(self) -> None:
        """Take the rubber band away at the next redrawing."""
        self._band.set_visible(False)

    def show_names(self, names: Mapping[int, str], current: int) -> None:
        """List objects, value -> name, in their colours; the current one is bold."""
        for text in self._names:
            text.remove()
        self._names = [
            self._figure.text(
                0.985, 0.91 - 0.03 * row, name, color=colour_of(value), ha="right", path_effects=SHADOW,
                weight="bold" if value == current else "normal",
            )
            for row, (value, name) in enumerate(names.items())
        ]  # fmt: skip

    def toggle_help(self) -> None:
        """Hide the help and give its place to the slice, or show it again."""
        self.help.set_visible(not self.help.get_visible())
        self.view.axes.set_position(_place(LEFT_OF_HELP if self.help.get_visible() else LEFT))

    def _drawn(self, _: Event) -> None:
        if self._on_top:
            self._beneath = self.canvas.copy_from_bbox(self._figure.bbox)
            for artist in self._on_top:
                self._figure.draw_artist(artist)

    def _draw_on_top(self) -> None:
        if self._beneath is None:
            self.canvas.draw()
            return
        self.canvas.restore_region(self._beneath)
        for artist in self._on_top:
            self._figure.draw_artist(artist)
        self.canvas.blit(self._figure.bbox)


def _place(left: float) -> tuple[float, float, float, float]:
    return left, 0.06, 0.99 - left, 0.87
