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


def places(content):
    return {e["image"]: s for s in SECTIONS for e in content[s]}


WAYS = st.one_of(
    st.builds(lambda folds, seed: {"folds": folds, "seed": seed}, st.integers(2, 6), st.integers(0, 3)),
    st.builds(
        lambda ratios, seed: {"ratios": ratios, "seed": seed},
        st.lists(st.integers(0, 5), min_size=3, max_size=3).filter(any),
        st.integers(0, 3),
    ),
)


@given(NAMES, NAMES, WAYS, st.integers(0, 5))
def test_what_is_in_test_by_hand_stays_there_whatever_is_split(names, tests, way, fold):
    content = {
        "training": [{"image": f"{n}.nii", "patient": n} for n in sorted(names - tests)],
        "test": [{"image": f"{n}.nii", "patient": n} for n in sorted(tests)],
    }
    first = split_datalist(content, **way)
    if "folds" in way:
        way = {**way, "fold": fold % way["folds"]}
    for result in (first, split_datalist(first, **way)):
        assert {f"{n}.nii" for n in tests} <= {e["image"] for e in result["test"]}
        assert len(places(result)) == len(names | tests)
        if "folds" in way:
            assert len(result["test"]) == len(tests)
        else:  # the shares are of the others
            rest = len(names - tests)
            assert abs(len(result["training"]) - rest * way["ratios"][0] / sum(way["ratios"])) < 1 + 1e-9


@given(NAMES, NAMES, WAYS)
def test_growing_moves_nobody_and_folds_stay(names, more, way):
    first = split_datalist({"training": [{"image": n, "patient": n} for n in sorted(names)]}, **way)
    new = [{"image": n, "patient": n} for n in sorted(more - names)]
    again = split_datalist({**first, "training": [*first["training"], *new]}, **way)
    assert {n: places(again)[n] for n in names} == places(first)
    folds = [{e["image"]: e.get("fold") for s in SECTIONS for e in c[s]} for c in (first, again)]
    assert {n: folds[1][n] for n in names} == folds[0]


@given(NAMES, WAYS, WAYS)
def test_a_split_is_never_continued_in_another_way(names, way, other):
    first = split_datalist({"training": [{"image": n, "patient": n} for n in sorted(names)]}, **way)
    if way == other:
        assert split_datalist(first, **other) == first
    else:
        with pytest.raises(CaseError, match=r"was split with --\w+ .* now it is --\w+ .*: keep that, or start anew"):
            split_datalist(first, **other)


def test_the_refusal_names_both_ways():
    first = split_datalist({"training": [{"image": "a"}, {"image": "b"}]}, ratios=(0.7, 0.1, 0.2))
    with pytest.raises(CaseError, match="with --ratios 0.7,0.1,0.2 --seed 0, now it is --folds 5 --seed 7: keep that"):
        split_datalist(first, folds=5, seed=7)


def test_an_official_test_set_stays_and_so_does_its_patient():
    content = {"training": [{"image": f"tr{n}"} for n in range(7)], "test": [{"image": f"te{n}"} for n in range(6)]}
    result = split_datalist(content, ratios=(0.8, 0.2, 0))
    assert {s: len(result[s]) for s in SECTIONS} == {"training": 6, "validation": 1, "test": 6}
    assert all(e["image"].startswith("te") for e in result["test"])
    joined = {**content, "training": [*content["training"], {"image": "x", "patient": "te0"}]}
    joined["test"] = [{**e, "patient": e["image"]} for e in content["test"]]
    assert places(split_datalist(joined, folds=3))["x"] == "test"


def test_a_patient_who_is_settled_twice_is_refused():
    content = {s: [{"image": s, "patient": "p"}] for s in ("validation", "test")}
    with pytest.raises(CaseError, match="Patient p is in validation with validation and in test with test; put all"):
        split_datalist(content)
    first = split_datalist({"training": [{"image": "a", "patient": "p"}]}, ratios=(1, 0, 0))
    with pytest.raises(CaseError, match="Patient p is in training with a and in test with b"):
        split_datalist({**first, "test": [{"image": "b", "patient": "p"}]}, ratios=(1, 0, 0))
    with pytest.raises(CaseError, match="folds choose what validates, but validation has cases of its own"):
        split_datalist({"training": [{"image": "a"}], "validation": [{"image": "b"}]}, folds=2)


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
