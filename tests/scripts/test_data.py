"""`scripts/data.py` as a user types it: options reach their place, errors are sentences, a kill leaves nothing broken."""

import json

import nibabel
import numpy as np
from PIL import Image

from tests.conftest import REPOSITORY, phantom, run_python

SCRIPT = REPOSITORY / "scripts" / "data.py"
ENVIRONMENT = {"PYTHONPATH": str(REPOSITORY / "bundle")}


def data(*arguments, cwd):
    return run_python(SCRIPT, *arguments, cwd=cwd, **ENVIRONMENT)


def write_volumes(folder, count, shape=(4, 30, 40)):
    for n in range(count):
        image, label = phantom(shape, seed=n)
        for kind, array in (("i", image.astype(np.int16)), ("l", label)):
            (folder / kind).mkdir(exist_ok=True)
            nibabel.save(
                nibabel.Nifti1Image(np.moveaxis(array, (0, 1, 2), (2, 1, 0)), np.eye(4)), folder / kind / f"c{n}.nii.gz"
            )


def test_from_volumes_to_a_split_and_inspected_datalist(tmp_path):
    write_volumes(tmp_path, 5)
    done = data(
        "ct_mr",
        "i",
        "l",
        "out",
        "--names",
        '{"1": "bar", "2": "block"}',
        "--drop",
        "block",
        "--processes",
        1,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "out/datalist.json"
    done = data("split", "out/datalist.json", "--ratios", "[3,1,1]", cwd=tmp_path)
    assert done.stdout.strip() == "training 3, validation 1, test 1", done.stderr
    done = data("inspect", "out/datalist.json", "--report", "r.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "5 cases, no problem found" in done.stdout
    with np.load(tmp_path / "out" / "c0.npz") as file:
        assert json.loads(str(file["labels"])) == {"1": "bar"}
        assert set(np.unique(file["gts"])) == {0, 1}
    assert (tmp_path / "r.html").stat().st_size > 10_000


def test_pictures_conversion_and_sources(tmp_path):
    (tmp_path / "i").mkdir()
    (tmp_path / "m").mkdir()
    Image.fromarray(phantom()[0][0]).save(tmp_path / "i" / "a.png")
    Image.fromarray(np.stack([phantom()[1][0] * 255] * 3, -1)).save(tmp_path / "m" / "a.png")
    (tmp_path / "c.json").write_text('[{"color": [255, 255, 255], "value": 1, "name": "nerve"}]')
    done = data("images", "i", "m", "out", "--colors", "c.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = data("convert", "i/a.png", "b.png", cwd=tmp_path)
    assert done.stdout.strip() == "b.png", done.stderr
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [{"image": "i/a.png", "label": "m/a.png"}]}))
    done = data("decathlon", ".", ".", cwd=tmp_path)
    assert done.stdout.strip() == "datalist.json", done.stderr


def test_wrong_options_end_with_a_sentence_and_exit_code_1(tmp_path):
    write_volumes(tmp_path, 1)
    (tmp_path / "bad.json").write_text("{")
    cases = {
        ("ct_mr", "nowhere", "l", "o"): "Nothing is found in nowhere",
        ("ct_mr", "i", "l", "o", "--format", "dicom"): "format must be npz or nifti, got 'dicom'",
        ("ct_mr", "i", "l", "o", "--modality", "CT"): "CT needs a window",
        (
            "ct_mr",
            "i",
            "l",
            "o",
            "--section",
            "train",
        ): "section must be one of training, validation, test, got 'train'",
        ("ct_mr", "i", "l", "o", "--merge", "kidneys"): "merge must be like",
        ("ct_mr", "i", "l", "o", "--names", "nowhere.json"): "nowhere.json cannot be read as JSON",
        ("ct_mr", "i", "l", "o", "--drop", "liver"): "There is no label 'liver'",
        ("ct_mr", "i", "l", "i/c0.nii.gz/o"): "OUT must be a folder that can be written to",
        ("images", "i", "l", "o"): "Nothing is found in i",
        ("split", "bad.json"): "The datalist bad.json cannot be read",
        ("inspect", "nowhere.json"): "The datalist nowhere.json cannot be read",
        ("decathlon", "Task00_X", "o"): "task must be one of",
    }
    for arguments, sentence in cases.items():
        done = data(*arguments, cwd=tmp_path)
        assert done.returncode == 1, (arguments, done.stderr)
        assert done.stderr.strip().splitlines()[-1].startswith("error: "), (arguments, done.stderr)
        assert sentence in done.stderr, (arguments, done.stderr)
        assert "Traceback" not in done.stderr
