"""Prepared cases remember what they were made of, are made anew when that changes, and keep their datalist whole."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from sam_lora.cases import CaseError
from sam_lora.data.ct_mr import CaseJob, prepare, prepare_case
from sam_lora.data.labels import LabelRules
from sam_lora.data.pairs import Pair
from sam_lora.data.prepared import Prepared, add_to_datalist, origin_of, sections_of
from sam_lora.dicom_seg import write_seg
from tests.dicom import write_series

WINDOW = {"window": [40, 400]}


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "i", np.arange(120, dtype=np.int16).reshape(6, 5, 4))
    write(tmp_path, "l", np.repeat([0, 1, 2], 40).reshape(6, 5, 4).astype(np.uint8))
    return tmp_path


def write(folder, kind, array):
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-1, 1, 2, 1])), folder / f"{kind}.nii.gz")


def run(folder, intensity=WINDOW, rules=LabelRules(), names=None, as_nifti=False):  # noqa: B008
    prepare(
        str(folder / "i.nii.gz"),
        str(folder / "l.nii.gz"),
        folder / "out",
        intensity,
        rules,
        names or {},
        "training",
        as_nifti,
        1,
    )
    (path,) = (p for p in (folder / "out").iterdir() if p.name in ("i.npz", "i.nii.gz"))
    return path


@pytest.mark.parametrize("as_nifti", [False, True])
def test_a_case_is_made_anew_when_source_or_settings_change_and_only_then(folder, as_nifti):
    def changed(**options):
        before = path.stat().st_mtime_ns
        assert run(folder, as_nifti=as_nifti, **options) == path
        return path.stat().st_mtime_ns != before

    path = run(folder, as_nifti=as_nifti)
    assert not changed()
    assert changed(rules=LabelRules(drop=("2",)))
    assert not changed(rules=LabelRules(drop=("2",)))
    assert changed(names={1: "a", 2: "b"})
    assert changed()
    assert changed(intensity={"window": [0, 50]}) != as_nifti  # NIfTI keeps raw intensities
    write(folder, "l", np.ones((6, 5, 4), np.uint8))
    assert changed(intensity={"window": [0, 50]})
    write(folder, "i", np.ones((6, 5, 4), np.int16))
    assert changed(intensity={"window": [0, 50]})
    path.write_bytes(b"cut short")
    assert changed(intensity={"window": [0, 50]})


def test_spacing_affine_names_and_digest_are_in_the_case(folder):
    path = run(folder, names={1: "a", 2: "b"}, rules=LabelRules(rename={"b": "c"}))
    origin = origin_of([folder / "i.nii.gz", folder / "l.nii.gz"], {})
    with np.load(path) as file:
        assert file["spacing"].tolist() == [1, 1, 2]
        assert np.array_equal(file["affine"], np.diag([-1, 1, 2, 1]))
        assert json.loads(str(file["labels"])) == {"1": "a", "2": "c"}
        assert str(file["source_digest"]) == origin.source_digest
        assert json.loads(str(file["settings"]))["intensity"] == WINDOW
    path.unlink()
    path = run(folder, names={1: "a", 2: "b"}, as_nifti=True)
    (comment,) = nibabel.load(path).header.extensions
    assert json.loads(comment.get_content())["source_digest"] == origin.source_digest


def test_names_in_the_datalist_are_those_after_the_rules(folder):
    run(folder, names={1: "left", 2: "right"}, rules=LabelRules(merge={"both": ["left", "right"]}))
    assert json.loads((folder / "out" / "datalist.json").read_text())["labels"] == {"1": "both"}


def prepare_files(folder, image, label, out, section="training", as_nifti=False, **rules):
    prepare(str(folder / image), str(folder / label), folder / out, WINDOW, LabelRules(**rules), {1: "a", 2: "b"}, section, as_nifti, 1)  # fmt: skip


def listed(folder):
    content = json.loads((folder / "datalist.json").read_text())
    return {s: [e["image"] for e in content.get(s, [])] for s in ("training", "validation", "test", "failed")}


@pytest.mark.parametrize("as_nifti", [False, True])
def test_another_source_of_the_same_name_replaces_nobody(folder, as_nifti):
    for name in ("p0", "p1"):
        (folder / name).mkdir()
        write(folder / name, "image", np.full((6, 5, 4), 7 if name == "p0" else 8, np.int16))
        write(folder / name, "label", np.ones((6, 5, 4), np.uint8))
    prepare_files(folder, "p0/image.nii.gz", "p0/label.nii.gz", "out", as_nifti=as_nifti)
    before = {p.name: p.read_bytes() for p in (folder / "out").iterdir()}
    with pytest.raises(
        ValueError, match=r"image.n\S+ is a case of another source than .*p1/image.nii.gz, of the same name"
    ):
        prepare_files(folder, "p1/image.nii.gz", "p1/label.nii.gz", "out", "test", as_nifti)
    (folder / "out" / "failures.json").unlink()
    assert {p.name: p.read_bytes() for p in (folder / "out").iterdir()} == before
    write(folder / "p0", "image", np.full((6, 5, 4), 9, np.int16))  # the same source, changed: made anew
    prepare_files(folder, "p0/image.nii.gz", "p0/label.nii.gz", "out", as_nifti=as_nifti)
    assert {p.name for p in (folder / "out").iterdir()} == before.keys()
    (folder / "p0").rename(folder / "moved")  # and the same content elsewhere: nothing to do
    prepare_files(folder, "moved/image.nii.gz", "moved/label.nii.gz", "out", as_nifti=as_nifti)


def test_a_case_that_fails_is_not_listed_with_what_it_was_before(folder):
    for kind in "il":
        (folder / f"{kind}s").mkdir()
        for name in "cd":
            (folder / f"{kind}s" / f"{name}.nii.gz").write_bytes((folder / f"{kind}.nii.gz").read_bytes())
    prepare_files(folder, "is", "ls", "out", "test")
    whole = (folder / "ls" / "c.nii.gz").read_bytes()
    (folder / "ls" / "c.nii.gz").write_bytes(whole[:30])
    for _ in range(2):
        with pytest.raises(ValueError, match="1 of 2 cases failed, .*the first: c: "):
            prepare_files(folder, "is", "ls", "out", merge={"both": ["a", "b"]})
        content = json.loads((folder / "out" / "datalist.json").read_text())
        assert listed(folder / "out") == {"training": [], "validation": [], "test": ["d.npz"], "failed": ["c.npz"]}
        assert content["labels"] == {"1": "both"}
        assert sections_of(folder / "out") == {"c": "test", "d": "test"}
    (folder / "ls" / "c.nii.gz").write_bytes(whole)
    prepare_files(folder, "is", "ls", "out", merge={"both": ["a", "b"]})
    content = json.loads((folder / "out" / "datalist.json").read_text())
    assert "failed" not in content
    assert content["test"] == [{"patient": n, "image": f"{n}.npz", "label": f"{n}.npz"} for n in "cd"]


def test_failures_are_told_before_conflicts_of_names(tmp_path):
    add_to_datalist(tmp_path, "training", [case("a", {1: "spleen"})])
    (tmp_path / "failures.json").write_text('{"b": "b.nii cannot be read."}')
    with pytest.raises(
        CaseError, match=r"^1 cases failed, .*first: b: b.nii cannot be read. Of .* Value 1 is 'liver' in c"
    ):
        add_to_datalist(tmp_path, "training", [case("c", {1: "liver"})])


def test_a_case_with_refused_names_is_not_listed_with_the_old_ones(tmp_path):
    add_to_datalist(tmp_path, "training", [case("a", {1: "spleen"}), case("b", {1: "spleen"})])
    with pytest.raises(CaseError, match="Value 1 is 'liver' in a.npz and 'spleen' in other cases"):
        add_to_datalist(tmp_path, "training", [case("a", {1: "liver"})])
    assert listed(tmp_path) == {"training": ["b.npz"], "validation": [], "test": [], "failed": ["a.npz"]}
    add_to_datalist(tmp_path, "training", [case("b", {1: "liver"})])  # a is still away: nobody else has a name
    add_to_datalist(tmp_path, "training", [case("a", {1: "liver"})])
    assert listed(tmp_path)["training"] == ["a.npz", "b.npz"]
    assert json.loads((tmp_path / "datalist.json").read_text())["labels"] == {"1": "liver"}


def test_names_given_by_hand_stay_and_a_first_run_that_is_refused_lists_nothing(tmp_path):
    with pytest.raises(CaseError, match="Value 1 is 'liver' in b.npz and 'spleen'"):
        add_to_datalist(tmp_path, "training", [case("a", {1: "spleen"}), case("b", {1: "liver"})])
    assert not (tmp_path / "datalist.json").exists()
    content = {"training": [{"image": "a.npz", "label": "a.npz"}], "labels": {"1": "mine"}}
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    add_to_datalist(tmp_path, "training", [case("a")])
    assert json.loads((tmp_path / "datalist.json").read_text())["labels"] == {"1": "mine"}


@pytest.mark.parametrize("kind", "il")
def test_nothing_is_written_over_its_source(folder, kind):
    for name in "il":
        (folder / name).mkdir()
        (folder / name / "c.nii.gz").write_bytes((folder / f"{name}.nii.gz").read_bytes())
    before = [(folder / name / "c.nii.gz").read_bytes() for name in "il"]
    with pytest.raises(ValueError, match=rf"{kind}/c.nii.gz would be replaced by what is made of it: give another OUT"):
        prepare_files(folder, "i", "l", kind, as_nifti=True)
    assert [(folder / name / "c.nii.gz").read_bytes() for name in "il"] == before


def test_asking_for_test_what_is_in_training_is_no_silent_wish(tmp_path):
    add_to_datalist(tmp_path, "training", [case("a"), case("b")])
    with pytest.raises(CaseError, match="2 of the cases are not in test but stay in .*, such as a in training: remove"):
        add_to_datalist(tmp_path, "test", [case("a"), case("b"), case("c")])
    assert listed(tmp_path) == {"training": ["a.npz", "b.npz"], "validation": [], "test": [], "failed": []}
    add_to_datalist(tmp_path, "test", [case("c")])
    add_to_datalist(tmp_path, "training", [case("c")])  # training is what every command says that says nothing
    assert listed(tmp_path)["test"] == ["c.npz"]


def case(name, names=None, patient="p"):
    return Prepared(*(2 * [Path(f"{name}.npz")]), patient, names or {})


def test_the_datalist_keeps_sections_and_patients_and_lists_nobody_twice(tmp_path):
    add_to_datalist(tmp_path, "training", [case("a"), case("b")])
    content = json.loads((tmp_path / "datalist.json").read_text())
    moved = {"image": "test/b.npz", "label": "test/b.npz", "patient": "mine", "split": True}
    (tmp_path / "datalist.json").write_text(
        json.dumps({**content, "training": content["training"][:1], "test": [moved]})
    )
    assert sections_of(tmp_path) == {"a": "training", "b": "test"}
    add_to_datalist(tmp_path, "training", [case("a"), case("b"), case("c")])
    content = json.loads((tmp_path / "datalist.json").read_text())
    assert [e["image"] for e in content["training"]] == ["a.npz", "c.npz"]
    assert content["test"] == [{"image": "b.npz", "label": "b.npz", "patient": "mine", "split": True}]


def test_entries_of_others_stay_in_the_datalist(tmp_path):
    others = [{"image": f"case{n}/image.nii.gz", "label": f"case{n}/label.nii.gz", "patient": f"{n}"} for n in (1, 2)]
    (tmp_path / "datalist.json").write_text(json.dumps({"training": others}))
    add_to_datalist(tmp_path, "training", [case("a")])
    assert json.loads((tmp_path / "datalist.json").read_text())["training"][1:] == others


def test_one_value_has_one_name(tmp_path):
    add_to_datalist(tmp_path, "training", [case("a", {1: "spleen"})])
    with pytest.raises(CaseError, match="Value 1 is 'liver' in b.npz and 'spleen' in other cases"):
        add_to_datalist(tmp_path, "training", [case("b", {1: "liver"})])
    add_to_datalist(tmp_path, "training", [case("a", {1: "liver"})])  # renamed: nobody else is there
    assert json.loads((tmp_path / "datalist.json").read_text())["labels"] == {"1": "liver"}


def test_segments_get_the_values_that_names_give_them_and_dicom_its_patient(tmp_path):
    volume, label = np.zeros((6, 5, 3), np.int16), np.zeros((6, 5, 3), np.uint8)
    label[1:3, 1:3], label[4, 4] = 1, 2
    affine = np.diag([-1.0, -1, 1, 1])
    series = write_series(tmp_path / "series", volume, affine)
    write_seg(tmp_path / "seg.dcm", label, {1: "liver", 2: "spleen"}, series, affine)
    job = CaseJob(Pair("c", series, (tmp_path / "seg.dcm",)), tmp_path, WINDOW, LabelRules(), {1: "spleen", 7: "liver"})
    assert prepare_case(job) == Prepared(*job.files, "P1", {1: "spleen", 7: "liver"})
    with np.load(tmp_path / "c.npz") as file:
        assert np.array_equal(file["gts"].T, np.choose(label, [0, 7, 1]))
    job = CaseJob(job.pair, tmp_path, WINDOW, LabelRules(), {1: "spleen"})
    with pytest.raises(CaseError, match="seg.dcm has the segment 'liver', which names does not have: spleen"):
        prepare_case(job)
