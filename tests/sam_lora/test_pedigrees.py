"""Who was trained on, and how two adapters compare."""

import pytest

from sam_lora.pedigrees import compare_judged, of_unknown_origin, trained_on
from sam_lora.registry import RegistryError


def test_who_saw_a_patient_is_known_of_removed_adapters_too(registry, trained):
    for name in "abc":
        registry.add(trained, name, {"cases": [{"image": f"image of {name}", "patient": "p1"}]})
    registry.promote("c", "")
    assert trained_on(registry, "p1") == ["a", "b", "c"]
    assert trained_on(registry, "image of b") == ["b"]
    assert trained_on(registry, "p2") == []
    assert set(registry.prune(keep=0)) == {"a", "b"}
    assert trained_on(registry, "p1") == ["a", "b", "c"]
    with pytest.raises(RegistryError, match="has or had an adapter 'a'"):
        registry.add(trained, "a", {})  # would hide who the first one was trained on


def test_who_started_from_an_adapter_that_saw_a_patient_saw_it_too(registry, trained):
    """The patient's images are gone from the studies, and from the later trainings' cases."""
    for name, parent, patient in (("a", "none", "p1"), ("b", "a", "p2"), ("c", "b", "p2"), ("d", "none", "p2")):
        registry.add(trained, name, {"parent": parent, "cases": [{"image": "image", "patient": patient}]})
    assert trained_on(registry, "p1") == ["a", "b", "c"]
    assert trained_on(registry, "p2") == ["b", "c", "d"]


def test_of_what_came_by_hand_and_of_what_started_from_it_nobody_knows(registry, trained):
    registry.add(trained, "a", {"parent": "none"})
    registry.add(trained, "c", {"parent": "by-hand"})
    assert of_unknown_origin(registry) == ["c"]  # the file is gone: nothing about it is known all the same
    (registry.folder / "by-hand.safetensors").write_bytes(trained.read_bytes())
    assert of_unknown_origin(registry) == ["by-hand", "c"]


def judged(**dice):
    pairs = [{"case": case, "label": "spleen", "champion": 0.0, "challenger": value} for case, value in dice.items()]
    return {"scores": {"jittered_box": {"pairs": pairs}}}


def test_two_adapters_are_compared_on_the_cases_that_both_were_judged_on(registry, trained):
    registry.add(trained, "a", judged(x=0.5, y=0.6))
    registry.add(trained, "b", judged(y=0.8, z=0.1))
    registry.add(trained, "c", {})
    found = compare_judged(registry, "a", "b")["jittered_box"]
    assert found == {"first": 0.6, "second": 0.8, "difference": pytest.approx(0.2), "pairs": 1}
    with pytest.raises(RegistryError, match="a and c were not judged on a case that both have"):
        compare_judged(registry, "a", "c")
    with pytest.raises(RegistryError, match="has no adapter 'd'"):
        compare_judged(registry, "a", "d")
