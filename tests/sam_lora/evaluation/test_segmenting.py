"""Answers are what serving serves, each slice encoded once, whatever else is asked in the same evaluation."""

import numpy as np
import pytest
import torch

from sam_lora.embedding import Embedder
from sam_lora.evaluation import CaseTruth, EvaluationRules, evaluate_case
from sam_lora.evaluation.protocols import box_points
from sam_lora.evaluation.segmenting import Answer, segment_case
from sam_lora.predictor import Predictor
from sam_lora.prompts import PromptError, box_of
from sam_lora.requests import ObjectPrompts
from sam_lora.segmentation import segment
from tests.conftest import phantom
from tests.sam_lora.evaluation.toys import LABELS, TokenSam, case_of, toy_case
from tests.sam_lora.test_propagation import BrightSam

ALL = ["automatic", "clicks_3", "jittered_box", "propagated", "oracle_box", "clicks_1"]


def rows_of(network, case=None, labels=LABELS, **rules):
    evaluated = evaluate_case(Embedder(network), case or toy_case(), labels, EvaluationRules(**rules))
    return {(row["protocol"], row["label"]): row for row in evaluated.rows}, evaluated


def test_a_network_that_sees_the_objects_is_perfect_and_needs_one_click():
    rows, evaluated = rows_of(TokenSam(), protocols=ALL)
    assert len(rows) == 2 * len(ALL)
    for (protocol, _), row in rows.items():
        if protocol == "jittered_box":  # it cuts off what lies outside, and so does the answer
            assert 0.9 < row["dice"] < 1
            continue
        assert row["dice"] == row["mean_slice_dice"] == row["surface_dice"] == 1, protocol
        assert (row["hd95"], row["missed"], row["unit"]) == (0, 0, "mm")
    for protocol in ("clicks_1", "clicks_3"):
        assert rows[protocol, "dim"]["clicks_85"] == rows[protocol, "dim"]["clicks_90"] == 1
        assert rows[protocol, "dim"]["failed_90"] == 0
    assert np.isnan(rows["oracle_box", "dim"]["clicks_85"])
    predicted = {row["protocol"]: row["predicted_iou"] for row in evaluated.objects}
    assert all(predicted[p] == pytest.approx(0.95) for p in predicted if p != "propagated")
    assert np.isnan(predicted["propagated"])  # a propagation's confidence is no predicted IoU


def test_a_network_that_never_answers_fails_to_reach_any_dice():
    class Nothing(BrightSam):
        def decode(self, *args, **more):
            logits, iou = super().decode(*args, **more)
            return torch.full_like(logits, -5.0), iou

    rows, _ = rows_of(Nothing(), protocols=["clicks_1"], max_clicks=4)
    row = rows["clicks_1", "bright"]
    assert (row["clicks_85"], row["clicks_90"], row["failed_85"], row["failed_90"]) == (4, 4, 1, 1)
    assert (row["dice"], row["missed"]) == (0, 1)
    assert np.isnan(row["hd95"])
    assert np.isnan(rows_of(Nothing(), protocols=["clicks_1"], max_clicks=0)[0]["clicks_1", "dim"]["clicks_85"])


def test_clicks_correct_until_the_dice_is_reached():
    class OneRowPerClick(BrightSam):
        """Adds four rows of the object for each foreground click."""

        def decode(self, embedding, points, point_labels, size, mask=None, multimask=False):
            logits, iou = super().decode(embedding, points, point_labels, size, mask, multimask)
            for n, labels in enumerate(point_labels[0]):
                rows = torch.nonzero((logits[0, n, 0] > 0).any(1))
                logits[0, n, 0, int(rows[0]) + 4 * int((labels == 1).sum()) :] = -5.0
            return logits, iou

    rows, _ = rows_of(OneRowPerClick(), protocols=["clicks_1", "clicks_3", "clicks_5"], label=1)
    assert [rows[f"clicks_{n}", "bright"]["dice"] for n in (1, 3, 5)] == pytest.approx([0.4, 6 / 7, 1])  # of 16 rows
    assert (rows["clicks_1", "bright"]["clicks_85"], rows["clicks_1", "bright"]["clicks_90"]) == (3, 4)


def test_each_slice_is_encoded_once_and_its_objects_are_decoded_together():
    network = BrightSam()
    rows_of(network, protocols=["oracle_box", "jittered_box", "propagated"])
    assert network.encoded == 5
    network = BrightSam()
    rows_of(network, protocols=["jittered_box"])
    assert network.decoded == [1, 1, 2, 2, 1]
    rows_of(network, protocols=["clicks_1"], every=2, max_clicks=0)
    assert network.decoded[5:] == [1, 2, 1]


def test_an_answer_does_not_depend_on_what_else_is_asked():
    together, evaluated = rows_of(TokenSam(), protocols=ALL)
    backwards, _ = rows_of(TokenSam(), protocols=ALL[::-1])
    assert {key: str(row) for key, row in together.items()} == {key: str(row) for key, row in backwards.items()}
    _, sparse = rows_of(TokenSam(), protocols=["jittered_box"], every=2, label="bright")
    assert [row["slice"] for row in sparse.objects] == [0, 2]
    for k in (0, 2):
        assert (sparse.answers["jittered_box"].masks[1][k] == evaluated.answers["jittered_box"].masks[1][k]).all()


def test_answers_are_what_is_served(toy_sam):
    image, label = phantom()
    case = case_of(label, image)
    rules = EvaluationRules(["oracle_box", "jittered_box", "propagated", "automatic"], label=1)
    truth = CaseTruth(case, {}, rules)
    embedder = Embedder(toy_sam)
    answers = segment_case(embedder, truth, rules)
    predictor = Predictor(embedder)
    predictor.set_volume(np.moveaxis(image, (0, 1, 2), (2, 1, 0)))

    def answered(protocol):
        result = np.zeros(label.shape, bool)
        for k, mask in answers[protocol].masks.get(1, {}).items():
            result[k] = mask
        return result

    def served(objects):
        return np.moveaxis(segment(Embedder(toy_sam), predictor.volume, objects), (0, 1, 2), (2, 1, 0)) > 0

    x0, y0, x1, y1 = box_of(label[2] == 1)
    roi = {"roi": [x0, x1 - 1, y0, y1 - 1, 2, 2]}
    assert (answered("oracle_box")[2] == predictor.segment(roi)[:, :, 2].T).all()
    assert (answered("propagated") == np.moveaxis(predictor.segment(roi, propagated=True), (0, 1, 2), (2, 1, 0))).all()
    points = {k: box_points("jittered_box", {1: label[k] == 1}, "toy", k, rules)[0][1] for k in range(4)}
    assert (answered("jittered_box") == served([ObjectPrompts(1, "1", points)])).all()
    assert (answered("automatic") == served([ObjectPrompts(1, "1", {k: [] for k in range(4)})])).all()


def test_an_object_of_several_parts_is_found_by_a_box_around_each_as_it_is_served():
    label = np.zeros((1, 64, 64), np.uint8)
    label[0, 8:16, 8:20], label[0, 40:56, 36:60] = 1, 1
    image = label * 200
    image[0, 20:36, 20:36] = 200  # as bright, between the parts, and not of the object
    network = BrightSam()
    network.iou = 0.5
    answers = {}
    for parts in (False, True):
        truth = CaseTruth(case_of(label, image), {}, EvaluationRules(["oracle_box"], parts=parts))
        answers[parts] = segment_case(Embedder(network), truth, truth.rules)["oracle_box"]
    assert (answers[False].masks[1][0] != (label[0] > 0)).sum() == 16 * 16
    assert np.array_equal(answers[True].masks[1][0], label[0] > 0)
    assert answers[True].iou[1, 0] == 0.5
    answer = Answer()
    answer.add_parts(1, 0, [(label[0, :32] > 0, 0.9), (np.zeros((32, 64), bool), 0.1)])
    assert answer.iou[1, 0] == pytest.approx((96 * 0.9 + 0.1) / 97)  # what found next to nothing says next to nothing
    predictor = Predictor(Embedder(network))
    predictor.set_volume(np.moveaxis(image, (0, 1, 2), (2, 1, 0)))
    asked = [{"label": "vessel", "roi": [8, 19, 8, 15, 0, 0]}, {"label": "vessel", "roi": [36, 59, 40, 55, 0, 0]}]
    assert np.array_equal(predictor.segment(asked)[:, :, 0].T, label[0])


def test_labels_that_are_asked_for_together_share_no_pixel_and_absent_ones_are_measured():
    class Greedy(TokenSam):
        def decode(self, *args, **more):
            logits, iou = super().decode(*args, **more)
            logits[0, -1] = torch.where(logits[0, 0] > 0, 9.0, logits[0, -1])  # the last label takes the first one's
            return logits, iou

    rows, evaluated = rows_of(Greedy(), protocols=["automatic"])
    assert rows["automatic", "bright"]["dice"] == 0
    masks = evaluated.answers["automatic"].masks
    assert all(not (masks[1][k] & masks[2][k]).any() for k in masks.get(1, {}))
    case = toy_case()
    case.label[case.label == 2] = 0  # bright as label 2, and nobody says that it is one
    rows, _ = rows_of(TokenSam(), case, protocols=["automatic", "oracle_box"])
    assert rows["automatic", "dim"]["false_positive"] == 3 * 12 * 16 * 2.0  # mm3
    assert np.isnan(rows["automatic", "dim"]["dice"])
    assert ("oracle_box", "dim") not in rows


def test_automatic_is_refused_where_labels_cannot_be_told_apart():
    with pytest.raises(PromptError, match="cannot tell 2 labels apart"):
        rows_of(BrightSam(), protocols=["automatic"])
