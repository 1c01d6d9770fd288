"""Real folders, prepared with `scripts/data.py`, train and evaluate as the bundle is."""

import json
import shutil

import pytest

from tests.bundle.running import EVALUATE, TRAIN, execute, train

FOLDERS = {  # images, masks, how they are prepared, cases
    "mr-hippocampus-msd": ("images", "labels", ("ct_mr", "--names", '{"1": "anterior", "2": "posterior"}')),
    "us-nerve-usgra": ("train/images", "train/masks", ("images", "--names", '{"1": "nerve", "2": "vessel"}')),
}


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_real_folder_becomes_a_datalist_that_trains_and_evaluates(folder, data_dir, tmp_path, data):
    images, masks, (command, *options) = FOLDERS[folder]
    for kind, source in (("i", images), ("m", masks)):
        (tmp_path / kind).mkdir()
        for path in sorted((data_dir / folder / source).iterdir())[:5]:
            shutil.copy(path, tmp_path / kind)
    assert data(command, "i", "m", "out", *options)[0] == 0
    assert data("split", "out/datalist.json", "--ratios", "3,1,1")[1] == "training 3, validation 1, test 1\n"
    assert data("inspect", "out/datalist.json")[0] == 0
    where = {"dataset_dir": str(tmp_path / "out"), "datalist": str(tmp_path / "out" / "datalist.json")}
    run = train(tmp_path, epochs=1, every=30, **where)
    assert len(json.loads((run / "history.json").read_text())) == 1
    adapter = str(run / "adapter_best.safetensors")
    evaluated = execute(
        [TRAIN, EVALUATE], "train", tmp_path / "evaluation", adapter=adapter, device="cpu", every=30, **where
    )
    rows = json.loads((evaluated / "metrics.json").read_text())["rows"]
    assert {row["label"] for row in rows} <= {"anterior", "posterior", "nerve", "vessel"}
    assert rows
    assert all(0 <= row["dice"] <= 1 for row in rows)
