"""Two evaluations of the same cases: pairs, verdicts, refusals."""

import copy
import dataclasses
import json

import numpy as np
import pytest

from sam_lora.evaluation import EvaluationRules
from sam_lora.evaluation.comparison import ComparisonError, compare, describe_comparison, read_metrics
from tests.sam_lora.evaluation.test_summary import row

NAMES = [f"case{n}" for n in range(8)]


def metrics(dice, **rules):
    rows = [{**row(name, dice=d, hd95=h, slices=4, mean_slice_dice=d), "case": name, "value": 1}
            for name, d, h in zip(NAMES, dice, 10 * (1 - np.array(dice)), strict=True)]  # fmt: skip
    content = {"rules": dataclasses.asdict(EvaluationRules("oracle_box", **rules)), "rows": rows,
               "cases": [{"name": name, "patient": name, "truth": "t"} for name in NAMES]}  # fmt: skip
    text = json.dumps(content).replace("NaN", "null")
    return json.loads(text)


SPREAD = np.linspace(0.2, 0.9, 8)  # patients differ far more than methods do


def test_a_small_lead_everywhere_is_seen_among_patients_that_differ():
    found = compare(metrics(SPREAD), metrics(SPREAD + 0.02))["oracle_box"]
    one = found["mean_dice"]
    assert one["difference"] == pytest.approx(0.02)
    assert one["interval"] == pytest.approx([0.02, 0.02])
    assert (one["ahead"], found["mean_hd95"]["ahead"], one["patients"]) == ("second", "second", 8)
    assert found["mean_hd95"]["difference"] == pytest.approx(-0.2)  # less is better
    assert compare(metrics(SPREAD + 0.02), metrics(SPREAD))["oracle_box"]["mean_hd95"]["ahead"] == "first"
    assert "mean_clicks_85" not in found


def test_chance_is_no_lead():
    noise = 0.1 * np.array([1, -1, 1, -1, 1, -1, 1, -1.5])
    found = compare(metrics(SPREAD), metrics(np.clip(SPREAD + noise, 0, 1)))["oracle_box"]["mean_dice"]
    low, high = found["interval"]
    assert low < 0 < high
    assert found["ahead"] is None
    text = describe_comparison({"oracle_box": {"mean_dice": found}}, ("a", "b"))
    assert "no difference shown (8 patients)" in text


def test_boxes_around_parts_and_around_all_of_an_object_are_not_compared(tmp_path):
    before = metrics(SPREAD)
    del before["rules"]["parts"]  # as it was written when there were no parts
    (tmp_path / "metrics.json").write_text(json.dumps(before))
    before = read_metrics(tmp_path / "metrics.json")
    assert compare(before, metrics(SPREAD))["oracle_box"]["mean_dice"]["difference"] == 0
    with pytest.raises(ComparisonError) as refused:
        compare(before, metrics(SPREAD, parts=True))
    assert str(refused.value) == ("The evaluations have different parts, False and True: evaluate both with the same.")


def test_an_evaluation_equals_itself():
    found = compare(metrics(SPREAD), metrics(SPREAD))["oracle_box"]["mean_object_dice"]
    assert (found["difference"], found["ahead"], tuple(found["interval"])) == (0, None, (0, 0))


def test_what_one_side_does_not_define_counts_for_neither():
    first, second = metrics(SPREAD), metrics(SPREAD)
    first["rows"][7]["hd95"] = None
    found = compare(first, second)["oracle_box"]["mean_hd95"]
    assert (found["patients"], found["difference"]) == (7, 0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"protocols": ["clicks_1"]}, "different protocols, oracle_box and clicks_1: evaluate both with the same"),
        ({"seed": 1}, "different seeds, 0 and 1"),
        ({"min_pixels": 9}, "different min_pixels, 1 and 9"),
        ({"label": "spleen"}, "different labels, None and spleen"),
    ],
)
def test_other_rules_are_refused(change, sentence):
    other = metrics(SPREAD)
    other["rules"] |= change
    with pytest.raises(ComparisonError, match=sentence):
        compare(metrics(SPREAD), other)


def test_other_cases_are_refused():
    other = metrics(SPREAD)
    moved = copy.deepcopy(other)
    other["cases"].pop()
    with pytest.raises(ComparisonError, match="of different cases: case7 is in the first only"):
        compare(metrics(SPREAD), other)
    moved["cases"][2]["truth"] = "drawn again"
    with pytest.raises(ComparisonError, match="label map or the patient of case case2 differs"):
        compare(metrics(SPREAD), moved)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ComparisonError, match="cannot be read as the metrics.json of an evaluation"):
        read_metrics(tmp_path / "none.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ComparisonError, match="it lacks rules, cases or rows"):
        read_metrics(tmp_path / "other.json")


def test_misses_are_compared_and_mm_are_not_averaged_with_pixels():
    one, other = metrics(SPREAD), metrics(SPREAD)
    for content in (one, other):
        for n, each in enumerate(content["rows"]):
            each["missed"], each["unit"] = 0.0, "mm" if n % 2 else "pixels"
    for each in other["rows"]:
        each["missed"] = 1.0
    found = compare(one, other)["oracle_box"]
    assert found["share_missed"]["ahead"] == "first"
    assert "mean_hd95" not in found


def test_damaged_rules_are_a_sentence(tmp_path):
    (tmp_path / "metrics.json").write_text('{"rules": {}, "cases": [], "rows": []}')
    with pytest.raises(ComparisonError, match="is no metrics.json of an evaluation: its rules lack one of protocols"):
        read_metrics(tmp_path / "metrics.json")
