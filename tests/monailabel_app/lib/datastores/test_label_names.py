"""What is annotated, and what a saved label map's values mean."""

import numpy as np
import pytest

from monailabel_app.lib.datastores.label_names import LabelNames, mapped_label
from monailabel_app.lib.datastores.names import DatastoreError

NAMES = {1: "spleen", 2: "liver", 3: "gall bladder"}


def test_names_are_appended_and_never_renumbered(tmp_path):
    names = LabelNames(tmp_path)
    assert names.read() == {}
    assert names.append(["spleen", "liver"]) == {1: "spleen", 2: "liver"}
    assert LabelNames(tmp_path).append(["kidney", "spleen", "kidney"]) == {1: "spleen", 2: "liver", 3: "kidney"}
    assert LabelNames(tmp_path).append([]) == {1: "spleen", 2: "liver", 3: "kidney"}


@pytest.mark.parametrize("name", ["", "../x", "$(rm)", "background", "a" * 65, 3, "x\ny"])
def test_a_name_is_a_name(tmp_path, name):
    with pytest.raises(DatastoreError, match="A label's name has 1 to 64 letters, digits, spaces"):
        LabelNames(tmp_path).append([name])
    assert LabelNames(tmp_path).read() == {}


def test_a_broken_file_of_names_is_named(tmp_path):
    names = LabelNames(tmp_path)
    names.append(["spleen"])
    names.path.write_text("{")
    with pytest.raises(DatastoreError, match=r"labels\.json must be a JSON object, value -> name, and cannot be read"):
        names.read()


def test_values_follow_the_place_in_label_info_and_the_name():
    label = np.array([0, 1, 2, 1])
    info = [{"name": "background", "idx": 0}, {"name": "gall bladder", "idx": 2}, {"name": "spleen", "idx": 3}]
    assert mapped_label(label, info, NAMES).tolist() == [0, 3, 1, 3]
    assert mapped_label(label, info[1:], NAMES).tolist() == [0, 3, 1, 3]


def test_without_label_info_values_are_the_classes(tmp_path):
    label = np.array([0, 3, 1])
    assert mapped_label(label, None, NAMES).tolist() == [0, 3, 1]
    with pytest.raises(
        DatastoreError, match="The label map holds the value 7, known are 1 spleen, 2 liver, 3 gall bladder"
    ):
        mapped_label(np.array([7]), [], NAMES)


def test_what_has_no_name_or_no_class_is_refused():
    with pytest.raises(DatastoreError, match="The label map holds the value 2, and its label_info names 1 segments"):
        mapped_label(np.array([2]), [{"name": "spleen"}], NAMES)
    with pytest.raises(DatastoreError, match="The label map holds the segment 'lung', known are 1 spleen"):
        mapped_label(np.array([1]), [{"name": "lung"}], NAMES)
    with pytest.raises(DatastoreError, match="known are none: start with --labels"):
        mapped_label(np.array([1]), None, {})
    with pytest.raises(DatastoreError, match="label_info must be a list of"):
        mapped_label(np.array([1]), ["spleen"], NAMES)
