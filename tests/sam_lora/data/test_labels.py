"""Label rules by hand-made maps."""

import numpy as np
import pytest

from sam_lora.cases import CaseError
from sam_lora.data.labels import LabelRules, remove_small

NAMES = {1: "left kidney", 2: "right kidney", 3: "tumour"}


def label_map():
    label = np.zeros((8, 8, 3), np.uint8)
    label[0:2, 0:2, :] = 1
    label[4:6, 4:6, :] = 2
    label[0, 7, 0] = 3
    label[7, 0:3, 1] = 3
    return label


def applied(for_training=True, **rules):
    return LabelRules(**rules).apply(label_map(), NAMES, for_training)


def test_drop_keep_merge_and_rename():
    label, names = applied(drop=("tumour",))
    assert names == {1: "left kidney", 2: "right kidney"}
    assert set(np.unique(label)) == {0, 1, 2}
    assert applied(keep=("3", "left kidney"))[1] == {1: "left kidney", 3: "tumour"}
    label, names = applied(merge={"kidneys": ["left kidney", "2"]})
    assert names == {1: "kidneys", 3: "tumour"}
    assert (label == 1).sum() == 24
    assert applied(rename={"3": "lesion"})[1][3] == "lesion"


def test_an_instance_label_becomes_objects():
    label, names = applied(split="tumour")
    assert names == {1: "left kidney", 2: "right kidney", 3: "tumour-1", 4: "tumour-2"}
    assert sorted([(label == 3).sum(), (label == 4).sum()]) == [1, 3]


def test_small_objects_go_from_training_cases_only():
    label, names = applied(min_volume=10)
    assert not (label == 3).any()
    assert names == NAMES
    assert np.array_equal(applied(for_training=False, min_volume=10, min_area=10)[0], label_map())
    by_area = remove_small(label_map(), 0, 2)
    assert not (by_area[..., 0] == 3).any()
    assert (by_area[..., 1] == 3).sum() == 3


def test_a_label_that_is_not_there_is_refused():
    with pytest.raises(CaseError, match="There is no label 'liver'; there are 1 left kidney, 2 right kidney, 3 tumour"):
        applied(drop=("liver",))


def test_a_number_that_one_mask_lacks_is_passed_over_and_merged_masks_agree():
    label = np.where(label_map() == 3, 0, label_map()).astype(np.uint8)
    assert LabelRules(drop=("3",)).apply(label, {}, True)[1] == {1: "1", 2: "2"}
    assert LabelRules(keep=("3", "1")).apply(label, {}, True)[1] == {1: "1"}
    assert LabelRules(split="3", rename={"3": "x"}).apply(label, {}, True)[1] == {1: "1", 2: "2"}
    for values, expected in (((1, 2), 1), ((300, 2), 2), ((300, 301), 300)):
        merge = {"kidneys": [*map(str, values)]}
        result, names = LabelRules(merge=merge).apply((label == 2).astype(np.uint8) * 2, {}, True)
        assert names == ({expected: "kidneys"} if 2 in values else {2: "2"})
        assert set(np.unique(result)) == {0, *names}
    result, names = LabelRules(merge={"k": ["2", "300"]}).apply((label == 2) * np.int32(300), {}, True)
    assert (set(np.unique(result)), names) == ({0, 2}, {2: "k"})


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [({"merge": {"tumour": ["left kidney"]}}, "After the rules the values 1 and 3 would both be called 'tumour': merge them"),
     ({"rename": {"1": "x", "2": "x"}}, "After the rules the values 1 and 2 would both be called 'x'"),
     ({"merge": {"k": "23"}}, "merge must map a new name to a list of labels, .*; 'k' has '23'"),
     ({"rename": {"2": ["x", "y"]}}, r"rename must map a label to one name, .*; '2' has \['x', 'y'\]")],
)  # fmt: skip
def test_rules_that_say_no_one_thing_are_refused(rules, sentence):
    with pytest.raises(CaseError, match=sentence):
        applied(**rules)


def test_a_name_may_pass_to_another_label():
    assert applied(rename={"1": "tumour", "3": "x"})[1] == {1: "tumour", 2: "right kidney", 3: "x"}
    assert applied(drop=("3",), rename={"1": "tumour"})[1] == {1: "tumour", 2: "right kidney"}
