"""`scripts/data.py` as a user types it: options reach their place, errors are sentences."""

import json

import nibabel
import numpy as np
import pytest
from PIL import Image

from tests.conftest import REPOSITORY, phantom, run_python


@pytest.fixture
def volumes(tmp_path):
    write_volumes(tmp_path, 5)
    return tmp_path


def write_volumes(folder, count, shape=(4, 30, 40)):
    for n in range(count):
        image, label = phantom(shape, seed=n)
        for kind, array in (("i", image.astype(np.int16)), ("l", label)):
            (folder / kind).mkdir(exist_ok=True)
            path = folder / kind / f"c{n}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(np.moveaxis(array, (0, 1, 2), (2, 1, 0)), np.eye(4)), path)


def datalist(folder):
    return json.loads((folder / "out" / "datalist.json").read_text())


def test_from_volumes_to_a_split_and_inspected_datalist(volumes, data):
    names = '{"1": "bar", "2": "block"}'
    assert data("ct_mr", "i", "l", "out", "--names", names, "--drop", "block")[:2] == (0, "out/datalist.json\n")
    assert data("split", "out/datalist.json", "--ratios", "[3,1,1]")[:2] == (0, "training 3, validation 1, test 1\n")
    assert data("inspect", "out/datalist.json", "--report", "r.html")[:2] == (0, "r.html\n5 cases, no problem found\n")
    with np.load(volumes / "out" / "c0.npz") as file:
        assert json.loads(str(file["labels"])) == {"1": "bar"}
        assert set(np.unique(file["gts"])) == {0, 1}
    assert datalist(volumes)["labels"] == {"1": "bar"}  # as it is after the rules
    assert (volumes / "r.html").stat().st_size > 10_000


def test_labels_are_given_by_names_with_spaces_too(volumes, data):
    names = '{"1": "left bar", "2": "right bar", "3": "block"}'
    merge = '{"bars": ["left bar", "right bar"]}'
    assert data("ct_mr", "i", "l", "out", "--names", names, "--keep", "left bar, right bar", "--merge", merge)[0] == 0
    assert datalist(volumes)["labels"] == {"1": "bars"}


def test_in_a_process_of_its_own(tmp_path):
    write_volumes(tmp_path, 2)
    script, environment = REPOSITORY / "scripts" / "data.py", {"PYTHONPATH": str(REPOSITORY / "bundle")}
    done = run_python(script, "ct_mr", "i", "l", "out", "--processes", 1, cwd=tmp_path, **environment)
    assert (done.returncode, done.stdout) == (0, "out/datalist.json\n"), done.stderr
    assert [e["image"] for e in datalist(tmp_path)["training"]] == ["c0.npz", "c1.npz"]


def test_pictures_conversion_and_sources(tmp_path, data):
    (tmp_path / "i").mkdir()
    (tmp_path / "m").mkdir()
    Image.fromarray(phantom()[0][0]).save(tmp_path / "i" / "a.png")
    Image.fromarray(np.stack([phantom()[1][0] * 255] * 3, -1)).save(tmp_path / "m" / "a.png")
    (tmp_path / "c.json").write_text('[{"color": [255, 255, 255], "value": 1, "name": "nerve"}]')
    assert data("images", "i", "m", "out", "--colors", "c.json")[0] == 0
    assert datalist(tmp_path)["labels"] == {"1": "nerve"}
    assert data("convert", "i/a.png", "b.png")[:2] == (0, "b.png\n")
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [{"image": "i/a.png", "label": "m/a.png"}]}))
    assert data("decathlon", ".", ".")[:2] == (0, "datalist.json\n")


def test_patients_come_from_a_pattern_or_a_table_and_stay_where_they_came_from(volumes, data):
    data("ct_mr", "i", "l", "out")
    (volumes / "t.csv").write_text("file,subject\n" + "".join(f"scans/c{n}.nii.gz,s{n // 2}\n" for n in range(5)))
    table = ("split", "out/datalist.json", "--table", "t.csv", "--column", "subject")
    assert data(*table)[0] == 0
    entries = [e for section in ("training", "validation", "test") for e in datalist(volumes)[section]]
    assert {e["image"]: e["patient"] for e in entries} == {f"c{n}.npz": f"s{n // 2}" for n in range(5)}
    code, _, err = data("split", "out/datalist.json")
    assert code == 1
    assert "was split with patients from --column subject, now they are from the datalist: keep that" in err
    (volumes / "out" / "datalist.json").unlink()
    data("ct_mr", "i", "l", "out")
    assert data("split", "out/datalist.json", "--pattern", "c([0-4])")[0] == 0
    assert {e["patient"] for e in datalist(volumes)["training"]} <= set("01234")


def test_a_split_is_balanced_by_labels_on_request(volumes, data):
    write_volumes(volumes, 20)
    for n in range(4):
        path = volumes / "l" / f"c{n}.nii.gz"
        label = nibabel.load(path)
        nibabel.save(
            nibabel.Nifti1Image(
                np.where(label.dataobj == np.uint8(2), 0, label.dataobj).astype(np.uint8), label.affine
            ),
            path,
        )
    data("ct_mr", "i", "l", "out", "--names", '{"1": "bar", "2": "block"}')
    for which in ([], ["block"]):
        assert data("split", "out/datalist.json", "--ratios", "0.5,0,0.5", "--stratify", *which)[0] == 0
        content = datalist(volumes)
        without = [sum(e["image"] in {f"c{n}.npz" for n in range(4)} for e in content[s]) for s in ("training", "test")]
        assert without == [2, 2]
        (volumes / "out" / "datalist.json").unlink()  # to split it anew
        data("ct_mr", "i", "l", "out", "--names", '{"1": "bar", "2": "block"}')
    assert (
        "There is no label 'liver' to stratify by; there are 1, 2, bar, block"
        in data("split", "out/datalist.json", "--stratify", "liver")[2]
    )


def test_small_objects_are_removed_from_what_trains_and_only_that(volumes, data):
    prepare = ("ct_mr", "i", "l", "out")
    data(*prepare, "--min_volume", 200)
    code, _, err = data("split", "out/datalist.json", "--ratios", "3,1,1")
    assert (code, "has had small objects removed: it may train, never be measured" in err) == (1, True)
    data(*prepare)
    assert data("split", "out/datalist.json", "--ratios", "3,1,1")[0] == 0
    data(*prepare, "--min_volume", 200)
    content = datalist(volumes)
    shown = {
        s: {tuple(np.unique(np.load(volumes / "out" / e["label"])["gts"])) for e in content[s]}
        for s in ("training", "validation", "test")
    }
    assert shown == {"training": {(0, 1)}, "validation": {(0, 1, 2)}, "test": {(0, 1, 2)}}
    assert data("split", "out/datalist.json", "--ratios", "3,1,1")[0] == 0


def test_copies_and_links_are_what_training_finds_without_a_datalist(volumes, data):
    data("ct_mr", "i", "l", "out")
    assert data("split", "out/datalist.json", "--ratios", "3,1,1", "--link")[0] == 0
    assert len(list((volumes / "out" / "train").glob("*.npz"))) == 3
    data("ct_mr", "i", "l", "out")  # again: nobody is listed twice
    assert sum(len(datalist(volumes)[s]) for s in ("training", "validation", "test")) == 5


def test_wrong_options_end_with_a_sentence_and_exit_code_1(volumes, data):
    (volumes / "bad.json").write_text("{")
    (volumes / "list.json").write_text('{"training": [{"image": "a.npz"}]}')
    (volumes / "t.csv").write_text("file,subject\n")
    cases = {
        ("ct_mr", "nowhere", "l", "o"): "Nothing is found in nowhere",
        ("ct_mr", "i", "l", "o", "--format", "dicom"): "format must be npz or nifti, got 'dicom'",
        ("ct_mr", "i", "l", "o", "--modality", "CT"): "CT needs a window",
        ("ct_mr", "i", "l", "o", "--section", "train"): "section must be one of training, validation, test, got 'train'",
        ("ct_mr", "i", "l", "o", "--merge", "kidneys"): "merge must be like",
        ("ct_mr", "i", "l", "o", "--names", "nowhere.json"): "nowhere.json cannot be read as JSON",
        ("ct_mr", "i", "l", "o", "--drop", "liver"): "There is no label 'liver'",
        ("ct_mr", "i", "l", "o", "--processes", "0"): "processes must be a whole number above 0, got 0",
        ("ct_mr", "i", "l", "i/c0.nii.gz/o"): "OUT must be a folder that can be written to",
        ("images", "i", "l", "o"): "Nothing is found in i",
        ("split", "bad.json"): "The datalist bad.json cannot be read",
        ("split", "list.json", "--ratios", "0.8"): "ratios must be three numbers, like 0.8,0.1,0.1, got 0.8",
        ("split", "list.json", "--pattern", "a", "--table", "t.csv"): "pattern and table both say who is the patient",
        ("split", "list.json", "--table", "t.csv"): "t.csv has no column 'patient'; it has file, subject",
        ("split", "list.json", "--copy"): "There is no ",
        ("inspect", "nowhere.json"): "The datalist nowhere.json cannot be read",
        ("decathlon", "Task00_X", "o"): "task must be one of",
    }  # fmt: skip
    for words, sentence in cases.items():
        code, _, err = data(*words)
        assert code == 1, (words, err)
        assert err.strip().splitlines()[-1].startswith("error: "), (words, err)
        assert sentence in err, (words, err)


def test_folders_may_be_called_by_numbers(volumes, data):
    for kind, year in (("i", "2024"), ("l", "2025")):
        (volumes / kind).rename(volumes / year)
    assert data("ct_mr", "2024", "2025", "2026")[:2] == (0, "2026/datalist.json\n")
