"""The window of the interactive demonstration: clicks, boxes and keys in, masks on the slice out."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.backend_bases import Event, KeyEvent, MouseEvent
from matplotlib.figure import Figure

from sam_lora.demo.results import write_answer
from sam_lora.demo.screen import Screen
from sam_lora.demo.session import Session
from sam_lora.files import write_json
from sam_lora.shown import ShownImage

DRAG = 4  # pixels of the screen: a shorter way is a click whose hand trembled


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
            figure = pyplot.figure("SAM-LoRA", (11, 8.5))
    except ImportError as error:
        raise ValueError(sentence) from error
    if figure.canvas.required_interactive_framework is None:
        pyplot.close(figure)
        raise ValueError(sentence)
    figure.canvas.mpl_disconnect(figure.canvas.manager.key_press_handler_id)  # its keys are others than ours
    return figure


def show_window(figure: Figure, session: Session, case: ShownImage, folder: Path) -> None:
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

    def __init__(self, figure: Figure, session: Session, case: ShownImage, folder: Path) -> None:
        self.session, self.case, self.folder = session, case, folder
        self.screen = Screen(figure, case)
        self._start: MouseEvent | None = None  # of a drag
        self._shown = -1
        self._encoded: set[int] = set()
        self._is_busy = self._must_stop = False
        # Each key gives back what to say, or nothing.
        self._keys: dict[str, Callable[[], str | None]] = {
            "up": lambda: self._turn(1), "down": lambda: self._turn(-1), "pageup": lambda: self._turn(10),
            "pagedown": lambda: self._turn(-10), "n": session.next_object, "u": self._undo, "c": session.clear,
            "p": self._propagate, "s": self._save, "h": self.screen.toggle_help,
        }  # fmt: skip
        for name, handler in (
            ("button_press_event", self._press), ("motion_notify_event", self._move), ("button_release_event", self._release),
            ("scroll_event", self._scroll), ("key_press_event", self._key), ("close_event", self.close),
        ):  # fmt: skip
            figure.canvas.mpl_connect(name, handler)
        self._do(lambda: "h hides the help")

    def close(self, _: Event | None = None) -> None:
        """Stop what is running."""
        self._must_stop = True

    def _press(self, event: MouseEvent) -> None:
        if self._is_busy or event.inaxes is not self.screen.view.axes:
            return
        if event.button == 3:
            self._prompt(lambda: self.session.click(*self.screen.pixel(event), foreground=False))
        elif event.button == 1:
            self._start = event

    def _move(self, event: MouseEvent) -> None:
        if self._start is not None:
            self.screen.show_band(self.screen.pixel(self._start), self.screen.pixel(event))

    def _release(self, event: MouseEvent) -> None:
        if self._start is None or event.button != 1:
            return
        start = self._start
        first, last = self.screen.pixel(start), self.screen.pixel(event)
        if math.hypot(event.x - start.x, event.y - start.y) < DRAG:
            self._prompt(lambda: self.session.click(*first))
        else:
            self._prompt(lambda: self.session.box(*first, *last))

    def _scroll(self, event: MouseEvent) -> None:
        if not self._is_busy:
            self._do(lambda: self._turn(1 if event.step > 0 else -1))

    def _key(self, event: KeyEvent) -> None:
        if event.key == "escape":
            self._must_stop = True
        elif event.key in self._keys and not self._is_busy:
            self._do(self._keys[event.key])

    def _prompt(self, action: Callable[[], None]) -> None:
        if self.session.k not in self._encoded:
            self._encoded.add(self.session.k)
            self.screen.say("encoding the slice ...")
            self.screen.canvas.flush_events()
        self._do(action)

    def _turn(self, step: int) -> None:
        self.session.go_to(self.session.k + step)

    def _undo(self) -> str | None:
        return None if self.session.undo() else "there is nothing to undo"

    def _propagate(self) -> str:
        self._is_busy, self._must_stop = True, False

        def on_slice(done: int, total: int) -> None:
            self.screen.say(f"propagating: {100 * done // total} %    Escape stops")
            self.screen.canvas.flush_events()
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
        """Do something, and show what follows from it; what cannot be done is said. It ends a drag."""
        self._start = None
        self.screen.hide_band()
        try:
            said = action()
            self._show()
        except (ValueError, OSError) as error:
            said = str(error)
        self.screen.status.set_text(said or self._hint())
        self.screen.canvas.draw_idle()

    def _show(self) -> None:
        session, k, view = self.session, self.session.k, self.screen.view
        if k != self._shown:
            view.show_slice(k)
            self._shown = k
        view.show_mask(session.mask(k))
        view.show_prompts(session.points(k))
        iou = session.iou(k)
        parts = [f"slice {k} of 0 to {len(session.volume) - 1}", session.names[session.value]]
        self.screen.title.set_text("    ".join(parts + ([] if iou is None else [f"predicted IoU {iou:.2f}"])))
        self.screen.show_names(session.names if len(session.names) > 1 else {}, session.value)

    def _hint(self) -> str:
        k, value = self.session.k, self.session.value
        if self.session.points(k).get(value):
            if self.session.iou(k) is None:
                return "background clicks alone: they hold when p propagates through this slice"
            if not (self.session.mask(k) == value).any():
                return "nothing was found there: draw a box around the object"
        if self.session.is_stale:
            return "prompts have changed since: p propagates again"
        return ""
