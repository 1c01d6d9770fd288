"""The window, driven by matplotlib's own events on a canvas without a screen."""

import json

import nibabel
import numpy as np
import pytest
from matplotlib.backend_bases import KeyEvent, MouseEvent

from sam_lora.demo.session import Session
from sam_lora.demo.window import Window, open_figure
from sam_lora.embedding import Embedder
from sam_lora.plots import new_figure
from sam_lora.predictor import Predictor
from sam_lora.shown import ShownImage
from tests.sam_lora.demo.test_session import bright_array
from tests.sam_lora.test_propagation import BrightSam


@pytest.fixture(scope="module")
def embedder():
    return Embedder(BrightSam())


class Hand:
    """Somebody at a window on slice 2 of 4, each 40 pixels wide and 30 high."""

    def __init__(self, embedder, folder, affine=None, axis=2):
        array = bright_array(4)
        affine = np.diag([-1.0, -1, 3, 1]) if affine is None else affine
        case = ShownImage(folder / "scan.nii.gz", array, affine, axis)
        predictor = Predictor(embedder)
        predictor.set_volume(array, axis)
        self.session = Session(predictor)
        figure = new_figure(9, 7)
        figure.set_layout_engine("none")
        self.canvas = figure.canvas
        self.window = Window(figure, self.session, case, folder)
        self.canvas.draw()

    def place(self, x, y):
        return self.window.screen.view.axes.transData.transform((x, y))

    def mouse(self, name, x, y, **options):
        self.canvas.callbacks.process(name, MouseEvent(name, self.canvas, *self.place(x, y), **options))

    def click(self, x, y, button=1):
        self.mouse("button_press_event", x, y, button=button)
        self.mouse("button_release_event", x, y, button=button)

    def drag(self, x0, y0, x1, y1):
        self.mouse("button_press_event", x0, y0, button=1)
        self.mouse("motion_notify_event", (x0 + x1) / 2, y1, button=1)
        self.mouse("motion_notify_event", x1, y1, button=1)
        self.mouse("button_release_event", x1, y1, button=1)

    def key(self, key):
        self.canvas.callbacks.process("key_press_event", KeyEvent("key_press_event", self.canvas, key))

    def coloured(self):
        """Which pixels of the slice are not grey on the screen, at their centres: ``(30, 40)``."""
        self.canvas.draw()
        screen = np.asarray(self.canvas.buffer_rgba())[::-1].astype(int)  # from below, as events count
        rows, columns = self.window.screen.view.size
        seen = np.zeros((rows, columns), bool)
        for j in range(rows):
            for i in range(columns):
                column, row = self.place(i + 0.5, j + 0.5).astype(int)
                seen[j, i] = np.ptp(screen[row, column, :3]) > 5
        return seen


@pytest.fixture
def hand(embedder, tmp_path):
    return Hand(embedder, tmp_path)


def test_a_click_draws_its_mask_at_once(hand):
    assert not hand.coloured().any()
    hand.click(12.5, 8.5)
    mask = hand.session.mask(2) > 0
    assert 60 < mask.sum() < 120
    different = hand.coloured() != mask
    different[7:10, 11:14] = False  # the click's own mark
    assert not different.any()
    assert f"predicted IoU {hand.session.iou(2):.2f}" in hand.window.screen.title.get_text()
    hand.key("u")
    assert not hand.coloured().any()


def test_left_and_right_clicks_and_a_drag_are_asked_as_such(hand):
    hand.click(12.5, 8.5)
    hand.click(30.2, 20.9, button=3)
    hand.drag(19.5, 11.5, 8.5, 5.5)
    assert hand.session.requests == [
        {"label": "object 1", "foreground": [[12, 8, 2]], "background": [[30, 20, 2]], "roi": [8, 19, 5, 11, 2, 2]}
    ]
    hand.drag(30.5, 20.5, 99, 99)  # it may end beside the slice
    assert hand.session.requests[0]["roi"] == [30, 39, 20, 29, 2, 2]
    hand.click(-5, 8)  # and does not start there
    hand.click(3.5, 3.5, button=2)
    assert len(hand.session.requests[0]["foreground"]) == 1


def test_a_band_follows_a_drag_and_nothing_else_is_drawn_anew(hand):
    def screen():
        return np.asarray(hand.canvas.buffer_rgba())[::-1].copy()

    before, drawn = screen(), []
    hand.canvas.mpl_connect("draw_event", drawn.append)
    hand.mouse("button_press_event", 5, 5, button=1)
    for x, y in ((30, 28), (15, 15)):
        hand.mouse("motion_notify_event", x, y, button=1)
    rows, columns = np.nonzero((screen() != before).any(2))
    (left, top), (right, bottom) = sorted([tuple(hand.place(5, 5)), tuple(hand.place(15, 15))])
    assert [columns.min(), columns.max()] == pytest.approx([left, right], abs=4)
    assert sorted([rows.min(), rows.max()]) == pytest.approx(sorted([top, bottom]), abs=4)
    assert not drawn
    assert hand.session.requests == []


def test_a_key_ends_a_drag(hand):
    hand.mouse("button_press_event", 5, 5, button=1)
    hand.key("up")
    hand.mouse("button_release_event", 25, 25, button=1)
    assert hand.session.requests == []


def test_wheel_and_keys_turn_to_other_slices(hand):
    for act, k in (
        (lambda: hand.mouse("scroll_event", 9, 9, step=1), 3), (lambda: hand.mouse("scroll_event", 9, 9, step=1), 3),
        (lambda: hand.mouse("scroll_event", 9, 9, step=-1), 2), (lambda: hand.key("down"), 1), (lambda: hand.key("up"), 2),
        (lambda: hand.key("pagedown"), 0), (lambda: hand.key("pageup"), 3),
    ):  # fmt: skip
        act()
        assert hand.session.k == k
        assert hand.window.screen.title.get_text().startswith(f"slice {k} of 0 to 3")
    volume = hand.session.volume
    assert np.array_equal(hand.window.screen.view.axes.images[0].get_array(), volume.slice(3)[0].numpy())


def test_keys_do_what_the_help_says(hand, tmp_path):
    hand.drag(8.5, 5.5, 19.5, 11.5)
    hand.key("n")
    hand.drag(4.5, 18.5, 9.5, 25.5)
    assert "object 2" in hand.window.screen.title.get_text()
    hand.key("p")
    assert hand.window.screen.status.get_text().startswith("propagated: slices ")
    propagated = hand.session.label()
    assert (propagated > 0).any((0, 1)).sum() > 1
    hand.key("s")
    assert hand.window.screen.status.get_text() == (
        f"saved in {tmp_path}: scan_mask.nii.gz, scan_overlay.png, scan_prompts.json"
    )
    assert np.array_equal(np.asanyarray(nibabel.load(tmp_path / "scan_mask.nii.gz").dataobj), propagated)
    assert json.loads((tmp_path / "scan_prompts.json").read_text()) == hand.session.requests
    hand.key("c")
    assert [one["label"] for one in hand.session.requests] == ["object 1"]
    assert hand.window.screen.status.get_text() == "prompts have changed since: p propagates again"
    assert hand.window.screen.help.get_visible()
    hand.key("h")
    assert not hand.window.screen.help.get_visible()
    hand.key("x")
    for key in "uuu":
        hand.key(key)
    assert hand.session.requests == []
    hand.key("u")
    assert hand.window.screen.status.get_text() == "there is nothing to undo"


def test_what_cannot_be_done_is_said(hand, tmp_path):
    hand.key("p")
    assert hand.window.screen.status.get_text().startswith("There is no prompt: give at least one request")
    hand.key("s")
    assert hand.window.screen.status.get_text().startswith("there is nothing to save")
    assert list(tmp_path.iterdir()) == []
    hand.click(30.5, 20.5, button=3)
    assert hand.window.screen.status.get_text().startswith("background clicks alone")
    hand.key("u")
    hand.click(30.5, 20.5)  # dark
    assert hand.window.screen.status.get_text() == "nothing was found there: draw a box around the object"


def test_escape_stops_a_propagation_and_other_keys_wait(hand, monkeypatch):
    hand.drag(8.5, 5.5, 19.5, 11.5)
    before, said = hand.session.label(), []

    def events():  # what a person does while it runs
        said.append(hand.window.screen.status.get_text())
        hand.key("c")
        hand.click(3.5, 3.5)
        hand.mouse("scroll_event", 9, 9, step=1)
        if len(said) == 3:
            hand.key("escape")

    monkeypatch.setattr(hand.canvas, "flush_events", events)
    hand.key("p")
    assert any(text.startswith("propagating: ") for text in said)
    assert len(said) == 3
    assert hand.window.screen.status.get_text() == "stopped: the masks are as they were"
    assert np.array_equal(hand.session.label(), before)
    assert (hand.session.k, len(hand.session.requests)) == (2, 1)
    monkeypatch.undo()
    hand.key("p")
    assert not np.array_equal(hand.session.label(), before)


@pytest.mark.parametrize(
    ("affine", "axis", "letters"),
    [
        (np.diag([1.0, 1, 1, 1]), 2, "RLAP"), (np.diag([-1.0, -1, 1, 1]), 2, "RLAP"), (np.diag([1.0, 1, 1, 1]), 1, "RLSI"),
        (np.diag([1.0, 1, 1, 1]), 0, "APSI"), (np.diag([-1.0, 1, -1, 1]), 1, "RLSI"),
    ],
)  # fmt: skip
def test_the_patient_lies_as_radiologists_look_whatever_the_voxel_order(embedder, tmp_path, affine, axis, letters):
    hand = Hand(embedder, tmp_path, affine, axis)
    texts = {text.get_text(): text.get_position() for text in hand.window.screen.view.axes.texts}
    left, right, above, below = letters
    assert texts[left][0] < texts[right][0]
    assert texts[above][1] > texts[below][1]
    x_axis, y_axis = (a for a in range(3) if a != axis)
    height, width = hand.window.screen.view.size
    first, last = hand.place(0, 0), hand.place(width, height)
    # where x grows towards R, A or S on the screen it runs to the left; y upwards
    assert (last[0] < first[0]) == (affine[x_axis, x_axis] > 0)
    assert (last[1] > first[1]) == (affine[y_axis, y_axis] > 0)


def test_pixels_have_their_shape_and_a_picture_is_not_turned(embedder, tmp_path):
    hand = Hand(embedder, tmp_path, np.diag([1.0, 1, 3, 1]), axis=1)
    corner, other = hand.place(0, 0), hand.place(1, 1)
    assert abs(other[1] - corner[1]) == pytest.approx(3 * abs(other[0] - corner[0]))
    picture = ShownImage(tmp_path / "a.png", np.zeros((4, 3, 1), np.uint8), np.diag([1.0, 2, 1, 1]), has_place=False)
    assert (picture.towards, picture.aspect, picture.name) == (None, 1.0, "a")


def test_where_no_window_can_be_drawn_a_sentence_says_so():
    import matplotlib

    before = matplotlib.get_backend()
    matplotlib.use("agg")
    with pytest.raises(ValueError, match=r"No window can be opened: there is no display, .*`--headless PROMPTS.json`"):
        open_figure()
    matplotlib.use(before)
