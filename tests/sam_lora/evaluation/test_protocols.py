"""What is asked follows from the truth, the seed and the place, and from nothing else."""

from types import SimpleNamespace

import numpy as np
import pytest

from sam_lora.evaluation import EvaluationRules, object_boxes
from sam_lora.evaluation.protocols import automatic_points, box_points, check_protocols
from sam_lora.prompts import PromptError, box_of, token
from tests.sam_lora.evaluation.toys import LABELS, toy_case, truth_of

MASK = np.zeros((60, 80), bool)
MASK[20:40, 10:50] = True
RULES = EvaluationRules()


def test_a_box_depends_on_seed_case_slice_and_label_alone():
    (box,) = object_boxes("jittered_box", MASK, "a", 3, 1, RULES)
    np.random.RandomState(5).rand(7)
    assert object_boxes("jittered_box", MASK, "a", 3, 1, RULES) == [box]
    places = (("b", 3, 1, RULES), ("a", 4, 1, RULES), ("a", 3, 2, RULES), ("a", 3, 1, EvaluationRules(seed=1)))
    others = [object_boxes("jittered_box", MASK, *place)[0] for place in places]
    assert len({box, *others}) == 5
    alone = box_points("jittered_box", {2: MASK}, "a", 3, RULES)
    together = box_points("jittered_box", {1: MASK, 2: MASK}, "a", 3, RULES)
    assert [value for value, _ in together] == [1, 2]
    assert alone == together[1:]
    assert alone[0][1] != together[0][1]


def test_by_parts_each_connected_part_that_is_large_enough_has_a_box_and_an_object_of_one_is_asked_alike():
    rules = EvaluationRules(parts=True, min_pixels=6)
    assert object_boxes("jittered_box", MASK, "a", 3, 1, rules) == object_boxes("jittered_box", MASK, "a", 3, 1, RULES)
    several = MASK.copy()
    several[50:53, 60:62] = True
    several[56, 70:75] = True  # five pixels
    assert object_boxes("oracle_box", several, "a", 3, 1, rules) == [(10, 20, 50, 40), (60, 50, 62, 53)]
    assert object_boxes("oracle_box", several, "a", 3, 1, RULES) == [(10, 20, 75, 57)]
    first, second = object_boxes("jittered_box", several, "a", 3, 1, rules)
    assert [first] == object_boxes("jittered_box", MASK, "a", 3, 1, rules)
    assert np.abs(np.array(second) - (60, 50, 62, 53)).max() <= 0.3
    asked = box_points("oracle_box", {1: several, 2: MASK}, "a", 3, rules)
    assert [value for value, _ in asked] == [1, 1, 2]


def test_a_jittered_box_moves_each_side_by_a_tenth_at_most_and_an_oracle_not_at_all():
    assert object_boxes("oracle_box", MASK, "a", 0, 1, RULES) == [box_of(MASK)] == [(10, 20, 50, 40)]
    moves = np.array([object_boxes("jittered_box", MASK, "a", k, 1, RULES)[0] for k in range(200)]) - box_of(MASK)
    limit = np.array([4, 2, 4, 2])
    assert (np.abs(moves) <= limit).all()
    assert (moves.min(0) < -0.9 * limit).all()
    assert (moves.max(0) > 0.9 * limit).all()


def test_unknown_protocols_are_refused_and_the_known_ones_listed():
    assert check_protocols("clicks_3") == ("clicks_3",)
    assert EvaluationRules(["clicks_5", "automatic", "clicks_1", "clicks_5"]).clicks == [1, 5]
    for wrong in ("boxes", "clicks_0", "clicks_11", "clicks", None):
        with pytest.raises(
            PromptError, match="out of oracle_box, jittered_box, clicks_1 to clicks_10, propagated, automatic"
        ):
            EvaluationRules([wrong])
    with pytest.raises(PromptError, match="protocols must name at least one of oracle_box"):
        EvaluationRules([])
    with pytest.raises(ValueError, match="max_clicks must be a whole number from 0 to 10, got 11"):
        EvaluationRules(max_clicks=11)


def test_automatic_asks_by_token_in_order_of_values_or_by_nothing_where_there_is_one_label():
    with_tokens = SimpleNamespace(tokens=(2, 7))
    assert automatic_points(with_tokens, {7: "late"}) == {7: token(1)}
    assert automatic_points(with_tokens, {2: "early", 7: "late"}) == {2: token(0), 7: token(1)}
    assert [label for *_, label in token(1)] == [6, 7]
    assert automatic_points(SimpleNamespace(tokens=()), {3: "only"}) == {3: []}
    with pytest.raises(PromptError, match="cannot tell 2 labels apart without label tokens: bright, dim. Choose one"):
        automatic_points(SimpleNamespace(tokens=()), LABELS)
    with pytest.raises(PromptError, match="no tokens for label 'other'; it has them for values 2, 7"):
        automatic_points(with_tokens, {3: "other"})


def test_every_nth_slice_has_the_middle_one_of_the_objects_among_them():
    label = np.zeros((20, 4, 4), np.uint8)
    label[5:10, 1, 1:3] = 1
    label[8, 0, 0] = 2
    for every in (1, 2, 3, 7):
        truth = truth_of(label, every=every)
        assert 7 in truth.chosen
        assert set(np.diff(truth.chosen)) <= {every}
        assert truth.measured(1) == [k for k in truth.chosen if 5 <= k < 10]
    assert truth_of(label, min_pixels=2).slices == {1: [5, 6, 7, 8, 9]}
    assert truth_of(label, label=2).names == {2: "2"}
    assert truth_of(np.zeros_like(label), labels={1: "a"}).chosen == list(range(20))


def test_a_label_that_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="label must be one of bright, dim, got 'dark'"):
        truth_of(toy_case().label, labels=LABELS, label="dark")


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        ({"every": 0}, "every must be a whole number of at least 1, got 0"),
        ({"min_pixels": -3}, "min_pixels must be a whole number of at least 1, got -3"),
        ({"tolerance": -1.0}, "tolerance must be a number above 0, got -1.0"),
    ],
)
def test_rules_out_of_range_are_refused(rules, sentence):
    with pytest.raises(ValueError, match=sentence):
        EvaluationRules(**rules)
