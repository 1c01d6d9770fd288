"""The window of the interactive demonstration: clicks, boxes and keys in, masks on the slice out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backend_bases import Event, KeyEvent, MouseEvent
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from sam_lora.demo.case import DemoCase
from sam_lora.demo.results import write_answer
from sam_lora.demo.session import Session
from sam_lora.demo.view import DARK, PALE, SHADOW, SliceView
from sam_lora.files import write_json
from sam_lora.plots import colour_of

HELP = """\
left click      on the object
right click     beside the object
drag            box around it; an
                object has one box
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
DRAG = 4  # pixels of the screen: a shorter way is a click whose hand trembled
REDRAW = 0.1  # seconds between two redrawings of a progress
LEFT, LEFT_OF_HELP = 0.01, 0.25  # of the slice, as a share of the window


class Stopped(Exception):  # noqa: N818  nothing went wrong
    """The person pressed Escape, or closed the window."""


def open_figure() -> Figure:
    """An empty window.

    Raises:
        ValueError: if there is no display, or nothing that draws windows.
    """
    from matplotlib import pyplot  # chooses what draws windows, which is not for an import to do

    sentence = (
        "No window can be opened: there is no display, or nothing to draw windows with (tkinter, or `pip install "
        "PySide6-Essentials`). `--headless PROMPTS.json` writes pictures instead."
    )
    try:
        with pyplot.rc_context({"toolbar": "None"}):
            figure = pyplot.figure("SAM-LoRA", (11, 8.5), facecolor=DARK)
    except ImportError as error:
        raise ValueError(sentence) from error
    if figure.canvas.required_interactive_framework is None:
        raise ValueError(sentence)
    figure.canvas.mpl_disconnect(figure.canvas.manager.key_press_handler_id)  # its keys are others than ours
    return figure


def show_window(figure: Figure, session: Session, case: DemoCase, folder: Path) -> None:
    """Let a person work in a window of :func:`open_figure` until it is closed; see :class:`Window`."""
    from matplotlib import pyplot

    window = Window(figure, session, case, folder)
    pyplot.show()
    window.close()


class Window:
    """Shows a session and hands it what a person does.

    Args:
        figure: empty, on a canvas of any kind.
        session: of the case.
        case: what is shown.
        folder: where masks, prompts and pictures are saved.
    """

    def __init__(self, figure: Figure, session: Session, case: DemoCase, folder: Path) -> None:
        self.session, self.case, self.folder = session, case, folder
        self._canvas = figure.canvas
        self._figure = figure
        figure.set_facecolor(DARK)
        self.view = SliceView(figure.add_axes((LEFT_OF_HELP, 0.06, 0.99 - LEFT_OF_HELP, 0.87)), case)
        self.title = figure.text(0.5, 0.965, "", color=PALE, fontsize=13, ha="center", va="center")
        self.status = figure.text(0.5, 0.025, "", color=PALE, fontsize=11, ha="center", va="center")
        self.help = figure.text(0.012, 0.93, HELP, color=PALE, fontsize=9.5, family="monospace", va="top", linespacing=1.6)
        self._names: list[Text] = []
        self._band = self.view.axes.add_patch(Rectangle((0, 0), 0, 0, fill=False, color=PALE, animated=True, zorder=6))
        self._start: MouseEvent | None = None
        self._beneath: Any = None  # what the rubber band is drawn over
        self._shown = -1
        self._encoded: set[int] = set()
        self._is_busy = self._must_stop = False
        # Each key gives back what to say, or nothing.
        self._keys: dict[str, Callable[[], str | None]] = {
            "up": lambda: self._turn(1), "down": lambda: self._turn(-1), "pageup": lambda: self._turn(10),
            "pagedown": lambda: self._turn(-10), "n": session.next_object, "u": self._undo, "c": session.clear,
            "p": self._propagate, "s": self._save, "h": self._toggle_help,
        }  # fmt: skip
        for name, handler in (
            ("button_press_event", self._press), ("motion_notify_event", self._move), ("button_release_event", self._release),
            ("scroll_event", self._scroll), ("key_press_event", self._key), ("close_event", self.close),
        ):  # fmt: skip
            self._canvas.mpl_connect(name, handler)
        self._do(lambda: "h hides the help")

    def close(self, _: Event | None = None) -> None:
        """Stop what is running."""
        self._must_stop = True

    # events

    def _press(self, event: MouseEvent) -> None:
        if self._is_busy or event.inaxes is not self.view.axes:
            return
        if event.button == 3:
            self._prompt(lambda: self.session.click(*self._pixel(event), foreground=False))
        elif event.button == 1:
            self._start = event
            self._beneath = self._canvas.copy_from_bbox(self._figure.bbox) if self._canvas.supports_blit else None

    def _move(self, event: MouseEvent) -> None:
        if self._start is None:
            return
        (x0, y0), (x1, y1) = self._pixel(self._start), self._pixel(event)
        self._band.set_bounds(x0, y0, x1 - x0, y1 - y0)
        if self._beneath is not None:  # only the band is drawn anew
            self._canvas.restore_region(self._beneath)
            self.view.axes.draw_artist(self._band)
            self._canvas.blit(self._figure.bbox)

    def _release(self, event: MouseEvent) -> None:
        start, self._start = self._start, None
        if start is None or event.button != 1:
            return
        if np.hypot(event.x - start.x, event.y - start.y) < DRAG:
            self._prompt(lambda: self.session.click(*self._pixel(start)))
        else:
            self._prompt(lambda: self.session.box(*self._pixel(start), *self._pixel(event)))

    def _scroll(self, event: MouseEvent) -> None:
        if not self._is_busy:
            self._do(lambda: self._turn(1 if event.step > 0 else -1))

    def _key(self, event: KeyEvent) -> None:
        if event.key == "escape":
            self._must_stop = True
        elif event.key in self._keys and not self._is_busy:
            self._do(self._keys[event.key])

    def _pixel(self, event: MouseEvent) -> tuple[float, float]:
        """Where on the slice an event is, in pixels; on its edge where it is beside."""
        x, y = self.view.axes.transData.inverted().transform((event.x, event.y))
        height, width = self.view.size
        return float(np.clip(x, 0, width)), float(np.clip(y, 0, height))

    # what keys and prompts do

    def _prompt(self, action: Callable[[], None]) -> None:
        if self.session.k not in self._encoded:
            self._encoded.add(self.session.k)
            self._say("encoding the slice ...", at_once=True)
        self._do(action)

    def _turn(self, step: int) -> None:
        self.session.go_to(self.session.k + step)

    def _undo(self) -> str | None:
        return None if self.session.undo() else "there is nothing to undo"

    def _toggle_help(self) -> None:
        self.help.set_visible(not self.help.get_visible())
        left = LEFT_OF_HELP if self.help.get_visible() else LEFT
        self.view.axes.set_position((left, 0.06, 0.99 - left, 0.87))

    def _propagate(self) -> str:
        self._is_busy, self._must_stop, drawn = True, False, 0.0

        def on_slice(done: int, total: int) -> None:
            nonlocal drawn
            if time.monotonic() - drawn > REDRAW:
                self._say(f"propagating: {100 * done // total} %    Escape stops", at_once=True)
                drawn = time.monotonic()
            self._canvas.flush_events()
            if self._must_stop:
                raise Stopped

        try:
            self.session.propagate(on_slice)
        except Stopped:
            return "stopped: the masks are as they were"
        finally:
            self._is_busy = False
        slices = np.nonzero(self.session.label().any(tuple(a for a in range(3) if a != self.case.axis)))[0]
        return f"propagated: slices {slices[0]} to {slices[-1]}" if len(slices) else "propagated: nothing was found"

    def _save(self) -> str:
        if not self.session.requests:
            return "there is nothing to save: click on an object, or draw a box around it"
        written = write_answer(self.folder, self.case, self.session.label())
        written.append(self.folder / f"{self.case.name}_prompts.json")
        write_json(written[-1], self.session.requests)
        return f"saved in {self.folder}: {', '.join(path.name for path in written)}"

    def _do(self, action: Callable[[], str | None]) -> None:
        """Do something, and show what follows from it; what cannot be done is said."""
        try:
            said = action()
            self._show()
        except (ValueError, OSError) as error:
            said = str(error)
        self._say(said or self._hint())
        self._canvas.draw_idle()

    # what is shown

    def _show(self) -> None:
        k, session = self.session.k, self.session
        if k != self._shown:
            self.view.show_slice(k)
            self._shown = k
        self.view.show_mask(session.mask(k))
        self.view.show_prompts(session.points(k))
        iou = session.iou(k)
        parts = [f"slice {k} of 0 to {len(session.volume) - 1}", session.names[session.value]]
        self.title.set_text("    ".join(parts + ([] if iou is None else [f"predicted IoU {iou:.2f}"])))
        self._list_names()

    def _list_names(self) -> None:
        for text in self._names:
            text.remove()
        names = self.session.names.items() if len(self.session.names) > 1 else []
        self._names = [
            self._figure.text(
                0.985, 0.91 - 0.03 * row, name, color=colour_of(value), ha="right", path_effects=SHADOW,
                weight="bold" if value == self.session.value else "normal",
            )
            for row, (value, name) in enumerate(names)
        ]  # fmt: skip

    def _hint(self) -> str:
        asked = self.session.points(self.session.k).get(self.session.value, [])
        if asked and self.session.iou(self.session.k) is None:
            return "background clicks alone: they hold when p propagates through this slice"
        if self.session.is_stale:
            return "prompts have changed since: p propagates again"
        return ""

    def _say(self, text: str, at_once: bool = False) -> None:
        self.status.set_text(text)
        if at_once:
            self._canvas.draw()
            self._canvas.flush_events()
