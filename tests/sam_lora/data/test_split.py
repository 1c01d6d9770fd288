"""Laws of splits, for any patients (hypothesis)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam_lora.cases import CaseError
from sam_lora.data.split import SECTIONS, patient_of, split_datalist, split_patients
from sam_lora.data.transfer import transfer

NAMES = st.sets(st.text("abcdefgh0123456789", min_size=1, max_size=6), min_size=1, max_size=60)
RATIOS = st.lists(st.integers(0, 10), min_size=2, max_size=5).filter(any)


@given(NAMES, RATIOS, st.integers(0, 5))
def test_ratios_hold_within_one_patient_and_every_patient_is_once_there(names, ratios, seed):
    assigned = split_patients(dict.fromkeys(names, ""), ratios, seed)
    assert assigned.keys() == names
    for part, ratio in enumerate(ratios):
        count = sum(p == part for p in assigned.values())
        assert abs(count - len(names) * ratio / sum(ratios)) < 1 + 1e-9
        assert ratio or not count


@given(NAMES, RATIOS, st.integers(0, 5))
def test_a_split_is_reproducible_whatever_the_order(names, ratios, seed):
    forwards = split_patients(dict.fromkeys(sorted(names), ""), ratios, seed)
    assert split_patients(dict.fromkeys(sorted(names, reverse=True), ""), ratios, seed) == forwards


@given(NAMES, NAMES, st.integers(0, 5))
def test_nobody_moves_when_others_come(names, more, seed):
    ratios = [0.8, 0.1, 0.1]
    before = split_patients(dict.fromkeys(names, ""), ratios, seed)
    after = split_patients(dict.fromkeys(names | more, ""), ratios, seed, before)
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


def test_a_stratified_split_balances_each_stratum():
    patients = {f"p{i}": "rare" if i % 5 == 0 else "common" for i in range(100)}
    assigned = split_patients(patients, [0.5, 0.5], 0)
    for stratum, total in (("rare", 20), ("common", 80)):
        first = sum(assigned[p] == 0 for p, s in patients.items() if s == stratum)
        assert abs(first - total / 2) <= 1


def test_a_second_run_with_more_cases_keeps_everyone():
    first = split_datalist({"training": [{"image": f"{i}.nii"} for i in range(20)]})
    again = split_datalist({**first, "training": [*first["training"], *({"image": f"new{i}.nii"} for i in range(10))]})
    for section in SECTIONS:
        assert {e["image"] for e in first[section]} <= {e["image"] for e in again[section]}


def test_patients_are_found_by_a_pattern():
    assert patient_of({"image": "x/sub-07_ses-2.nii"}, r"sub-(\d+)") == "07"
    assert patient_of({"image": "x/abc12.nii"}, r"[a-z]+") == "abc"
    assert patient_of({"image": "x/abc.nii", "patient": "p"}) == "p"
    with pytest.raises(CaseError, match=r"The pattern 'sub' finds no patient in the name abc.nii"):
        patient_of({"image": "x/abc.nii"}, "sub")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"ratios": (0, 0, 0)}, "ratios must be numbers of at least 0, not all 0"), ({"ratios": (1, -1, 0)}, "ratios must be"),
     ({"folds": 1}, "folds must be at least 2"), ({"folds": 3, "fold": 3}, "fold from 0 to folds - 1, got 3 and 3")],
)  # fmt: skip
def test_impossible_splits_are_refused(options, sentence):
    with pytest.raises(CaseError, match=sentence):
        split_datalist({"training": [{"image": "a"}]}, **options)


@pytest.mark.parametrize("by_link", [False, True])
def test_cases_move_by_copy_or_link_and_nothing_is_written_over(tmp_path, by_link):
    (tmp_path / "a.npz").write_bytes(b"1")
    content = transfer({"training": [{"image": "a.npz", "label": "a.npz"}]}, tmp_path, by_link)
    assert content["training"] == [{"image": "train/a.npz", "label": "train/a.npz"}]
    assert (tmp_path / "train" / "a.npz").read_bytes() == b"1"
    assert (tmp_path / "train" / "a.npz").is_symlink() == by_link
    assert json.dumps(transfer({"training": [{"image": "a.npz"}]}, tmp_path, by_link))  # again is fine
    if not by_link:
        (tmp_path / "train" / "a.npz").write_bytes(b"another")
        with pytest.raises(CaseError, match="is there already and is another file"):
            transfer({"training": [{"image": "a.npz"}]}, tmp_path, by_link)
    with pytest.raises(CaseError, match="There is no"):
        transfer({"test": [{"image": "b.npz"}]}, tmp_path, by_link)
