"""A person's session: what each act asks, that undo undoes, and that masks follow from the prompts alone."""

import numpy as np
import pytest

from sam_lora.demo.session import Session
from sam_lora.embedding import Embedder
from sam_lora.predictor import Predictor
from sam_lora.prompts import PromptError
from tests.conftest import phantom
from tests.sam_lora.test_propagation import BRIGHT, DIM, BrightSam


def bright_array(slices):
    """A bright object and a dim one that starts on the second slice, in voxel order: ``(40, 30, slices)``."""
    _, label = phantom((slices, 30, 40))
    return np.moveaxis(np.array([20, BRIGHT, DIM], np.uint8)[label], (0, 1, 2), (2, 1, 0))


@pytest.fixture(scope="module")
def embedder():
    return Embedder(BrightSam())


def predictor(network, axis=2, labels=None):
    mine = Predictor(network, labels)
    mine.set_volume(bright_array(6), axis)
    return mine


@pytest.fixture
def session(embedder):
    """On slice 3 of 6, each 40 pixels wide and 30 high; objects in columns 8-19, rows 5-11, and 4-9, 18-25."""
    return Session(predictor(embedder))


@pytest.mark.parametrize(
    ("axis", "voxel", "roi"),
    [(0, [20, 7, 3], [20, 20, 5, 9, 1, 4]), (1, [7, 15, 3], [5, 9, 15, 15, 1, 4]), (2, [7, 3, 3], [5, 9, 1, 4, 3, 3])],
)
def test_a_click_asks_for_the_voxel_under_it_and_a_box_for_those_it_touches(embedder, axis, voxel, roi):
    one = Session(predictor(embedder, axis))
    one.click(7.9, 3.1)
    one.click(7.0, 3.99, foreground=False)
    for corners in ((5.2, 1.7, 9.9, 4.0), (9.9, 4.0, 5.2, 1.7), (5.2, 4.0, 9.9, 1.7)):
        one.box(*corners)
        assert one.requests == [{"label": "object 1", "foreground": [voxel], "background": [voxel], "roi": roi}]


def test_a_box_is_clipped_to_the_slice_and_a_click_beside_it_refused(session):
    session.box(-9, 20, 99, 99)
    assert session.requests[0]["roi"] == [0, 39, 20, 29, 3, 3]
    session.click(40, 30)  # the very edge belongs to the last pixel
    assert session.requests[0]["foreground"] == [[39, 29, 3]]
    for x, y in ((40.5, 3), (3, -0.5), (float("nan"), 3)):
        with pytest.raises(PromptError, match="A click must be on the slice of 40 x 30 pixels, got"):
            session.click(x, y)


def ask_for_two(session):
    """Two objects, with prompts on three slices."""
    session.box(8, 5, 19.5, 11.5)
    session.click(30.5, 20.5, foreground=False)
    session.next_object()
    session.click(6.5, 20.5)
    session.go_to(1)
    session.click(5.5, 22.5)
    session.go_to(4)
    session.click(35.5, 3.5, foreground=False)


def test_masks_are_those_of_the_predictor_asked_the_same(session, embedder):
    ask_for_two(session)
    direct = predictor(embedder)
    expected = direct.segment(session.requests)
    assert set(np.unique(expected)) == {0, 1, 2}
    assert np.array_equal(session.label(), expected)
    for k in range(6):
        assert np.array_equal(session.mask(k), expected[:, :, k].T)
    session.propagate()
    assert not session.is_stale
    expected = direct.segment(session.requests, propagated=True)
    assert np.array_equal(session.label(), expected)
    assert (expected > 0).any((0, 1)).sum() > 3


@pytest.mark.parametrize("axis", [0, 1])
def test_along_another_axis_too(embedder, axis):
    one = Session(predictor(embedder, axis))
    one.go_to(9)
    one.box(4, 1, 22, 4)
    assert np.array_equal(one.label(), predictor(embedder, axis).segment(one.requests))
    assert one.label().any()


def test_the_predicted_iou_is_the_predictors(toy_sam):
    session = Session(predictor(toy_sam))
    assert session.iou(3) is None
    session.click(12.5, 8.5)
    session.click(30.5, 20.5, foreground=False)
    session.box(8, 5, 19.5, 11.5)
    asked = {"points": [[12, 8, 3], [30, 20, 3]], "point_labels": [1, 0], "boxes": [8, 19, 5, 11, 3, 3]}
    assert session.iou(3) == predictor(toy_sam).predict(**asked).iou[0, 0]
    assert session.iou(2) is None


def state(session):
    return session.requests, session.label().tobytes(), [session.points(k) for k in range(6)]


def test_undo_takes_everything_back_step_by_step(session):
    acts = [
        lambda: session.click(12.5, 8.5), lambda: session.box(8, 5, 19.5, 11.5), lambda: session.click(3.5, 3.5, False),
        lambda: session.box(4, 18, 10, 26), session.clear, lambda: session.click(6.5, 20.5),
    ]  # fmt: skip
    before = []
    for number, act in enumerate(acts):
        session.go_to(number)
        before.append((number, session.value, *state(session)))
        act()
        if number == 1:
            session.next_object()
    while before:
        assert session.undo()
        assert (session.k, session.value, *state(session)) == before.pop()
    assert not session.undo()


def test_after_a_propagation_a_prompt_changes_its_slice_and_undo_brings_it_back(session):
    session.box(8, 5, 19.5, 11.5)
    session.propagate()
    whole = session.label()
    session.go_to(1)
    session.click(6.5, 20.5)  # the other one, to be sure
    assert session.is_stale
    changed = session.label()
    assert not np.array_equal(changed[:, :, 1], whole[:, :, 1])
    assert np.array_equal(np.delete(changed, 1, 2), np.delete(whole, 1, 2))
    session.undo()
    assert not session.is_stale
    assert np.array_equal(session.label(), whole)


def test_a_background_click_alone_waits_for_the_propagation(session, embedder):
    session.click(12.5, 8.5, foreground=False)
    assert session.requests == []
    assert not session.label().any()
    assert session.iou(3) is None
    session.undo()
    session.box(8, 5, 19.5, 11.5)
    session.propagate()
    whole = session.label()
    session.go_to(2)
    session.click(12.5, 8.5, foreground=False)
    assert np.array_equal(session.label(), whole)
    session.propagate()
    assert np.array_equal(session.label(), predictor(embedder).segment(session.requests, propagated=True))
    assert session.label()[12, 8, 2] == 0


def test_clearing_takes_one_object_and_leaves_the_others(session):
    ask_for_two(session)
    session.propagate()
    whole = session.label()
    session.clear()  # the second one
    assert np.array_equal(session.label(), np.where(whole == 2, 0, whole))
    assert [one["label"] for one in session.requests] == ["object 1"]
    session.undo()
    assert np.array_equal(session.label(), whole)


def test_objects_are_numbered_as_they_come_or_the_adapters(session, embedder):
    session.next_object()
    assert session.value == 1  # nothing is asked for the first one yet
    session.click(3, 3)
    session.next_object()
    assert session.names == {1: "object 1", 2: "object 2"}
    session.next_object()
    assert session.value == 1
    named = Session(predictor(embedder, labels={3: "spleen", 7: "liver"}))
    named.click(12.5, 8.5)
    named.next_object()
    named.box(4, 18, 10, 26)
    assert [one["label"] for one in named.requests] == ["spleen", "liver"]
    assert set(np.unique(named.label())) == {0, 3, 7}
    named.next_object()
    assert named.value == 3


def test_a_stopped_propagation_leaves_everything_as_it_was(session):
    session.box(8, 5, 19.5, 11.5)
    before = session.label()

    def stop(done, total):
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.propagate(stop)
    assert np.array_equal(session.label(), before)
    session.undo()
    with pytest.raises(PromptError, match="There is no prompt: give at least one request"):
        session.propagate()


def test_a_slice_is_encoded_once_and_no_prompt_decoded_twice():
    network = BrightSam()
    session = Session(predictor(network))
    for act in (lambda: session.click(12.5, 8.5), lambda: session.click(30.5, 20.5, False), session.next_object,
                lambda: session.box(4, 18, 10, 26), session.undo):  # fmt: skip
        act()
        session.mask(3), session.iou(3)
    assert network.encoded == 1
    decoded = len(network.decoded)
    session.go_to(5)
    session.go_to(3)
    session.mask(3), session.iou(3)
    assert len(network.decoded) == decoded
