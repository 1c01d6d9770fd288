"""Laws of splits, for any patients (hypothesis)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam_lora.cases import CaseError
from sam_lora.data.patients import Patients
from sam_lora.data.split import SECTIONS, split_datalist, split_patients

NAMES = st.sets(st.text("abcdefgh0123456789", min_size=1, max_size=6), min_size=1, max_size=60)
LABELS = st.lists(st.frozensets(st.sampled_from("abc")), min_size=1, max_size=40)
RATIOS = st.lists(st.integers(0, 10), min_size=2, max_size=5).filter(any)


def plain(names):
    return dict.fromkeys(names, frozenset())


@given(NAMES, RATIOS, st.integers(0, 5))
def test_ratios_hold_within_one_patient_and_every_patient_is_once_there(names, ratios, seed):
    assigned = split_patients(plain(names), ratios, seed)
    assert assigned.keys() == names
    for part, ratio in enumerate(ratios):
        count = sum(p == part for p in assigned.values())
        assert abs(count - len(names) * ratio / sum(ratios)) < 1 + 1e-9
        assert ratio or not count


@given(NAMES, RATIOS, st.integers(0, 5))
def test_a_split_is_reproducible_whatever_the_order(names, ratios, seed):
    forwards = split_patients(plain(sorted(names)), ratios, seed)
    assert split_patients(plain(sorted(names, reverse=True)), ratios, seed) == forwards


@given(NAMES, NAMES, st.integers(0, 5))
def test_nobody_moves_when_others_come(names, more, seed):
    ratios = [0.8, 0.1, 0.1]
    before = split_patients(plain(names), ratios, seed)
    after = split_patients(plain(names | more), ratios, seed, before)
    assert {p: after[p] for p in names} == before
    for part, ratio in enumerate(ratios):
        assert abs(sum(p == part for p in after.values()) - len(names | more) * ratio) < 2


@given(NAMES, st.integers(1, 4), st.integers(0, 3))
def test_no_patient_is_on_two_sides(names, scans, seed):
    entries = [{"image": f"{n}_{i}.nii", "label": "x", "patient": n} for n in names for i in range(scans)]
    content = split_datalist({"training": entries}, seed=seed)
    sides = [{e["patient"] for e in content[s]} for s in SECTIONS]
    assert sum(len(content[s]) for s in SECTIONS) == len(entries)
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]


@given(NAMES, st.integers(2, 5), st.integers(0, 3))
def test_folds_validate_every_patient_once(names, folds, seed):
    entries = [{"image": f"{n}.nii", "patient": n} for n in names]
    validated = []
    for fold in range(folds):
        content = split_datalist({"training": entries}, folds=folds, fold=fold, seed=seed)
        validated += [e["patient"] for e in content["validation"]]
        assert not content["test"]
        assert len(content["training"]) + len(content["validation"]) == len(names)
    assert sorted(validated) == sorted(names)


def excess(patients, assigned, ratios, label=None):
    """How many patients beyond rounding up or down the worst part has, of all or of those who show a label."""
    group = [p for p, shown in patients.items() if label is None or label in shown]
    shares = [len(group) * r / sum(ratios) for r in ratios]
    counts = [sum(assigned[p] == part for p in group) for part in range(len(ratios))]
    return max(0, *(abs(count - share) - 1 + 1e-9 for count, share in zip(counts, shares, strict=True)))


@given(st.lists(st.booleans(), min_size=1, max_size=60), RATIOS, st.integers(0, 5))
def test_a_label_is_balanced_within_one_patient_and_so_are_the_parts(shows, ratios, seed):
    patients = {f"p{n}": frozenset("a" * has) for n, has in enumerate(shows)}
    assigned = split_patients(patients, ratios, seed)
    assert assigned.keys() == patients.keys()
    assert excess(patients, assigned, ratios) < 1e-6
    assert excess(patients, assigned, ratios, "a") < 1e-6


@given(LABELS, st.integers(0, 5))
def test_with_several_labels_the_parts_are_exact_and_each_label_is_near(shows, seed):
    patients = {f"p{n}": shown for n, shown in enumerate(shows)}
    assigned = split_patients(patients, [0.6, 0.2, 0.2], seed)
    assert excess(patients, assigned, [0.6, 0.2, 0.2]) < 1e-6
    for label in "abc":  # three labels cannot always be within one at once
        assert excess(patients, assigned, [0.6, 0.2, 0.2], label) < 1


@given(LABELS, LABELS, st.integers(0, 3))
def test_a_balanced_split_is_reproducible_and_nobody_moves_when_others_come(shows, more, seed):
    patients = {f"p{n}": shown for n, shown in enumerate(shows)}
    before = split_patients(patients, [0.5, 0.5], seed)
    assert split_patients(dict(reversed(patients.items())), [0.5, 0.5], seed) == before
    both = patients | {f"q{n}": shown for n, shown in enumerate(more)}
    after = split_patients(both, [0.5, 0.5], seed, before)
    assert {p: after[p] for p in patients} == before
    assert excess(both, after, [0.5, 0.5]) < 1e-6


def test_another_seed_splits_otherwise():
    patients = plain(f"p{n}" for n in range(20))
    assert split_patients(patients, [1, 1], 0) != split_patients(patients, [1, 1], 1)


def test_a_second_run_with_more_cases_keeps_everyone():
    first = split_datalist({"training": [{"image": f"{i}.nii"} for i in range(20)]})
    again = split_datalist({**first, "training": [*first["training"], *({"image": f"new{i}.nii"} for i in range(10))]})
    for section in SECTIONS:
        assert {e["image"] for e in first[section]} <= {e["image"] for e in again[section]}


def test_new_cases_of_a_patient_join_the_old_ones_or_the_split_is_refused():
    by_name = Patients(r"sub-(\d+)")
    first = split_datalist({"training": [{"image": f"sub-{i}_a.nii"} for i in range(9)]}, patients=by_name)
    grown = {**first, "training": [*first["training"], *({"image": f"sub-{i}_b.nii"} for i in range(9))]}
    with pytest.raises(
        CaseError, match=r"split with patients from --pattern sub-.*, now they are from the datalist: keep"
    ):
        split_datalist(grown)
    again = split_datalist(grown, patients=by_name)
    for section in SECTIONS:
        assert {e["patient"] for e in again[section]} == {e["patient"] for e in first[section]}


def test_what_had_small_objects_removed_may_only_train():
    entry = {"image": "a.npz", "small_removed": True}
    assert split_datalist({"training": [entry]}, ratios=(1, 0, 0))["training"][0]["small_removed"]
    for options in ({"ratios": (0, 0, 1)}, {"folds": 2}):
        with pytest.raises(CaseError, match="a.npz has had small objects removed: it may train, never be measured"):
            split_datalist({"training": [entry]}, **options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"ratios": (0, 0, 0)}, "ratios must be numbers of at least 0, not all 0"), ({"ratios": (1, -1, 0)}, "ratios must be"),
     ({"folds": 1}, "folds must be at least 2"), ({"folds": 3, "fold": 3}, "fold from 0 to folds - 1, got 3 and 3")],
)  # fmt: skip
def test_impossible_splits_are_refused(options, sentence):
    with pytest.raises(CaseError, match=sentence):
        split_datalist({"training": [{"image": "a"}]}, **options)
