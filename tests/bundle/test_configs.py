"""The bundle as MONAI runs it, in this process: train, evaluate, infer, and what MONAI checks."""

import json
import shutil

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from sam_lora.adapter import Adapter, read_adapter, write_adapter
from sam_lora.dicom_seg import read_seg
from tests.bundle.running import EVALUATE, FAST, INFERENCE, TRAIN, chain, execute, train, workflow
from tests.conftest import BUNDLE, phantom
from tests.dicom import write_series


def test_training_leaves_everything_in_its_folder(tmp_path, dataset_dir):
    folder = train(tmp_path, dataset_dir, rank=2, task_name="mine", learning_rate=0.01)
    assert folder.name.startswith("mine-")
    names = {p.name.split(".")[0] for p in folder.iterdir()}
    expected = {
        "adapter_best",
        "adapter_latest",
        "model",
        "train_loss",
        "config",
        "versions",
        "history",
        "checkpoint",
        "events",
    }
    assert names == expected
    config = json.loads((folder / "config.json").read_text())
    assert (config["rank"], config["learning_rate"], config["train"]["trainer"]["_target_"]) == (
        2,
        0.01,
        "SupervisedTrainer",
    )
    versions = json.loads((folder / "versions.json").read_text())
    assert versions["sam_lora"] == json.loads((BUNDLE / "configs" / "metadata.json").read_text())["version"]
    adapter = read_adapter(folder / "adapter_best.safetensors")
    assert (adapter.spec.rank, adapter.spec.labels, adapter.spec.image_size) == (2, {1: "bar", 2: "block"}, 64)
    assert len(adapter.record["training_cases"]["cases"]) == 2
    assert "case0" not in json.dumps(adapter.record)  # adapters are shared: no names, no ids
    history = json.loads((folder / "history.json").read_text())
    assert [row["epoch"] for row in history] == [1, 2]
    best = min(history, key=lambda row: row["loss"])
    assert adapter.record["metrics"]["epoch"] == best["epoch"]
    assert adapter.record["prompt_mode"] == "pt_box"
    assert (tmp_path / "models" / "adapter_best.safetensors").read_bytes() == (
        folder / "adapter_best.safetensors"
    ).read_bytes()
    assert torch.load(tmp_path / "models" / "model.pt", weights_only=True).keys() == adapter.tensors.keys()


def test_best_is_by_validation_where_there_is_one_and_never_by_test(tmp_path, dataset_dir):
    shutil.copytree(dataset_dir / "train", dataset_dir / "validation")
    for path in (dataset_dir / "test").iterdir():
        np.savez(path, imgs=np.zeros(3), gts=np.zeros(3))  # whoever reads this as a case fails
    folder = train(tmp_path, dataset_dir, learning_rate=0.02, epochs=3)
    history = json.loads((folder / "history.json").read_text())
    assert all(0 <= row["val_mean_dice"] <= 1 for row in history)
    best = max(history, key=lambda row: row["val_mean_dice"])
    assert read_adapter(folder / "adapter_best.safetensors").record["metrics"] == best


def test_an_image_is_never_written_over(tmp_path, dataset_dir):
    image = dataset_dir / "test" / "case0.npz"
    before = image.read_bytes()
    prompts = [{"label": "bar", "roi": [8, 19, 5, 11, 2, 2]}]
    run = workflow(INFERENCE, "infer", tmp_path, image=str(image), prompts=prompts, image_size=64, device="cpu")
    run.parser["output_dir"] = str(image.parent)
    run.initialize()
    run.run()
    assert image.read_bytes() == before
    assert (image.parent / "case0_mask.nii.gz").is_file()


def test_a_batch_replaces_no_file_unasked(tmp_path, dataset_dir):
    drawn = tmp_path / "out" / "case0_mask.nii.gz"
    drawn.parent.mkdir()
    drawn.write_bytes(b"a person's")
    options = {"image": str(dataset_dir / "test" / "case0.npz"), "image_size": 64, "device": "cpu",
               "prompts": [{"label": "bar", "roi": [8, 19, 5, 11, 2, 2]}]}  # fmt: skip
    with pytest.raises(RuntimeError, match="Failed to") as error:
        execute(INFERENCE, "infer", tmp_path, **options)
    assert "case0_mask.nii.gz is there already: --overwrite replaces it" in str(chain(error.value))
    assert drawn.read_bytes() == b"a person's"
    execute(INFERENCE, "infer", tmp_path, overwrite=True, **options)
    assert nibabel.load(drawn).shape == (40, 30, 4)


def test_the_sentence_names_the_case(tmp_path, dataset_dir):
    with pytest.raises(RuntimeError, match="Failed to") as error:
        execute(INFERENCE, "infer", tmp_path, dataset_dir=str(dataset_dir), image_size=64, device="cpu",
                prompts=[{"label": "bar", "roi": [80, 90, 5, 11, 2, 2]}])  # fmt: skip
    assert "test_case0: roi [80, 90, 5, 11, 2, 2] of the request lies outside" in str(chain(error.value))


def test_evaluation_measures_cases_and_labels_and_calls_its_boxes_an_oracle(tmp_path, dataset_dir):
    adapter = train(tmp_path, dataset_dir) / "adapter_best.safetensors"
    options = {"dataset_dir": str(dataset_dir), "adapter": str(adapter), "device": "cpu", "tolerance": 2.0,
               "protocols": ["oracle_box", "clicks_1", "propagated"], "max_clicks": 2}  # fmt: skip
    folder = execute([TRAIN, EVALUATE], "train", tmp_path / "evaluation", save_masks=True, **options)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["prompts_from"].startswith("ground truth (oracle)")
    assert [(r["protocol"], r["case"], r["label"], r["unit"], r["tolerance"]) for r in metrics["rows"]] == [
        (protocol, "test_case0", label, "mm", 2.0) for protocol in options["protocols"] for label in ("bar", "block")
    ]
    oracle = metrics["protocols"]["oracle_box"]
    assert oracle["all"]["mean_dice"]["interval"] is None  # one patient says nothing about others
    assert oracle["labels"]["bar"]["mean_dice"]["value"] == metrics["rows"][0]["dice"]
    assert set(metrics["reliability"]) == {"pooled", "oracle_box", "clicks_1"}
    assert len((folder / "metrics.csv").read_text().splitlines()) == 7
    assert len((folder / "objects.csv").read_text().splitlines()) == 1 + 3 * 7
    page = (folder / "report.html").read_text()
    assert all(text in page for text in ("oracle", "propagated", "test_case0", "data:image/png"))
    mask = nibabel.load(folder / "masks" / "oracle_box" / "test_case0.nii.gz")
    assert np.allclose(np.abs(np.diag(mask.affine))[:3], [0.8, 0.8, 2.0])
    _, label = phantom(seed=10)
    predicted = np.asanyarray(mask.dataobj).T == 1
    dice = 2 * (predicted & (label == 1)).sum() / (predicted.sum() + (label == 1).sum())
    assert metrics["rows"][0]["dice"] == pytest.approx(dice, abs=1e-6)
    with pytest.raises(RuntimeError, match="Failed to") as error:
        execute([TRAIN, EVALUATE], "train", tmp_path / "refused", **{**options, "protocols": ["clicks_1", "boxes"]})
    assert "protocols must be out of oracle_box, jittered_box, clicks_1 to clicks_10, propagated" in str(
        chain(error.value)
    )


def test_slices_along_another_axis_are_evaluated_as_such_and_written_as_they_lay(tmp_path):
    array, label = (np.moveaxis(a, (0, 1, 2), (1, 2, 0)) for a in phantom(seed=10))  # its slices along axis 1
    affine = np.diag([2.0, 3.0, 5.0, 1.0])
    for name, stored in (("image", array), ("label", label)):
        nibabel.save(nibabel.Nifti1Image(stored.astype(np.int16), affine), tmp_path / f"{name}.nii.gz")
    (tmp_path / "list.json").write_text(
        json.dumps({"test": [{"image": "image.nii.gz", "label": "label.nii.gz"}], "labels": {"1": "bar", "2": "block"}, "axis": 1})
    )  # fmt: skip
    folder = execute(
        [TRAIN, EVALUATE], "train", tmp_path / "evaluation", save_masks=True, dataset_dir=str(tmp_path), device="cpu",
        datalist=str(tmp_path / "list.json"), protocols=["oracle_box"], max_clicks=0, image_size=64,
    )  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    mask = nibabel.load(folder / "masks" / "oracle_box" / "image.nii.gz")
    predicted = np.asanyarray(mask.dataobj)
    assert (mask.affine == affine).all()
    assert predicted.shape == label.shape
    for row, value in zip(metrics["rows"], (1, 2), strict=True):
        a, b = predicted == value, label == value
        assert row["dice"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()), abs=1e-6)


def test_inference_writes_masks_on_the_images_grid(tmp_path, dataset_dir):
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([{"label": "bar", "roi": [8, 19, 5, 11, 2, 2]}]))
    image = dataset_dir / "test" / "case0.npz"
    path = execute(INFERENCE, "infer", tmp_path, image=str(image), prompts=str(prompts), image_size=64, device="cpu")
    mask = nibabel.load(path)
    assert mask.shape == (40, 30, 4)
    assert np.allclose(mask.header.get_zooms(), [0.8, 0.8, 2.0])
    assert np.asanyarray(mask.dataobj)[..., 2].any()


def test_inference_propagates_draws_and_writes_dicom_seg(tmp_path):
    image = np.moveaxis(phantom()[0], (0, 1, 2), (2, 1, 0)).astype(np.int16)
    series = write_series(tmp_path / "series", image, np.diag([-0.8, 0.8, 2.0, 1.0]))
    prompts = [{"label": "bar", "roi": [8, 19, 5, 11, 2, 2]}]
    execute(INFERENCE, "infer", tmp_path, image=str(series), prompts=prompts, image_size=64, device="cpu",
            propagate=True, overlays=True, dicom_seg=True)  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["series_mask.dcm", "series_overlay.png"]
    label, names = read_seg(tmp_path / "out" / "series_mask.dcm", series, np.diag([-0.8, 0.8, 2.0, 1.0]))
    assert names == {1: "bar"}
    assert len(np.unique(np.nonzero(label)[2])) > 1


def test_monai_finds_its_properties(tmp_path, dataset_dir):
    for config, kind, more in ((TRAIN, "train", FAST), ([TRAIN, EVALUATE], "train", {}), (INFERENCE, "infer", {})):
        run = workflow(config, kind, tmp_path, dataset_dir=str(dataset_dir), ckpt_dir=str(tmp_path / "models"), **more)
        run.initialize()
        assert run.check_properties() == []


def test_batches_of_several_slices_train(tmp_path, dataset_dir):
    folder = train(tmp_path, dataset_dir, batch_size=3, epochs=2, prompt_mode="mix", balanced=True, slices_per_epoch=4)
    history = json.loads((folder / "history.json").read_text())
    assert [row["slices"] for row in history] == [4, 8]  # a batch of three and one of one


def test_objects_are_trained_and_evaluated_by_their_parts(tmp_path, dataset_dir):
    for path in dataset_dir.glob("*/*.npz"):
        arrays = dict(np.load(path))
        arrays["gts"][:, 24:28, 30:36] = 1  # label 1 once more, far from the first
        np.savez_compressed(path, **arrays)
    options = {"prompt_mode": "box", "min_pixels": 4, "dataset_dir": str(dataset_dir)}
    for parts, expected in ((True, [1, 1, 2]), (False, [1, 2])):
        run = workflow(TRAIN, "train", tmp_path, ckpt_dir=str(tmp_path / "models"), parts=parts, **{**FAST, **options})
        run.initialize()
        for part in ("train", "validate"):
            transform = run.parser.get_parsed_content(f"{part}#preprocessing")
            sample = {"image": np.zeros((3, 30, 40), np.float32), "label": arrays["gts"][1]}
            assert transform(sample)["values"].tolist() == expected
    folder = train(tmp_path, dataset_dir, epochs=1, parts=True, prompt_mode="box", min_pixels=4)
    further = {"dataset_dir": str(dataset_dir), "device": "cpu", "adapter": str(folder / "adapter_latest.safetensors"),
               "protocols": ["oracle_box"], "max_clicks": 0, "min_pixels": 4}  # fmt: skip
    by_parts, whole = (
        json.loads(
            (execute([TRAIN, EVALUATE], "train", tmp_path / name, **further, **more) / "metrics.json").read_text()
        )
        for name, more in (("parts", {"parts": True}), ("whole", {}))
    )
    assert (by_parts["rules"]["parts"], whole["rules"]["parts"]) == (True, False)
    dice = [{row["label"]: row["dice"] for row in one["rows"]} for one in (by_parts, whole)]
    assert dice[0]["block"] == dice[1]["block"]  # of one part: the same box
    assert dice[0]["bar"] != dice[1]["bar"]


def test_the_switches_are_understood(tmp_path, dataset_dir):
    options = {"empty_cache": True, "gradient_checkpointing": True, "decoder": "lora", "targets": ["q", "k", "v"],
               "layers": [8, 9], "intensity": {"window": [40, 400]}, "num_workers": 1, "epochs": 1, "amp": False}  # fmt: skip
    spec = read_adapter(train(tmp_path, dataset_dir, **options) / "adapter_best.safetensors").spec
    assert (spec.decoder, spec.layers, spec.intensity) == ("lora", (8, 9), {"window": [40.0, 400.0]})


def test_inference_and_training_build_the_same_network():
    train_def, infer_def = ({**ConfigParser.load_config_file(c)["network_def"]} for c in (TRAIN, INFERENCE))
    assert infer_def.items() <= train_def.items()


def test_nothing_before_run_reaches_the_package():
    for config in (TRAIN, EVALUATE, INFERENCE):
        content = ConfigParser.load_config_file(config)
        assert "sam_lora" not in json.dumps([content.get("imports"), content.get("initialize")])


@pytest.mark.parametrize("preset", ["fast", pytest.param("accurate", marks=pytest.mark.accept), pytest.param("decoder", marks=pytest.mark.accept)])  # fmt: skip
def test_presets_train_label_tokens_and_are_recorded(tmp_path, dataset_dir, preset):
    configs = [TRAIN, str(BUNDLE / "configs" / f"{preset}.json")]
    folder = execute(configs, "train", tmp_path, image_size=56, device="cpu", epochs=1, slices_per_epoch=4,
                     dataset_dir=str(dataset_dir), ckpt_dir=str(tmp_path / "models"))  # fmt: skip
    adapter = read_adapter(folder / "adapter_best.safetensors")
    assert adapter.record["preset"] == preset
    assert adapter.spec.tokens == (1, 2)
    assert adapter.spec.layers == {"fast": (8, 9), "accurate": tuple(range(10)), "decoder": ()}[preset]
    further = {"adapter": str(folder / "adapter_best.safetensors"), "dataset_dir": str(dataset_dir), "device": "cpu"}
    report = execute([TRAIN, EVALUATE], "eval", tmp_path / "then", protocols=["automatic"], every=2, **further)
    rows = json.loads((report / "metrics.json").read_text())
    assert rows["protocols"]["automatic"]["labels"].keys() == {"bar", "block"}


def test_tokens_are_trained_on_labels_that_are_there_and_only_those_of_the_data_may_be_absent(tmp_path, dataset_dir):
    options = {**FAST, "dataset_dir": str(dataset_dir), "tokens": True, "ckpt_dir": str(tmp_path / "models")}
    run = workflow(TRAIN, "train", tmp_path, **options)
    run.initialize()
    slices = run.parser.get_parsed_content("train#dataset")
    codes = {tuple(row) for n in range(8) for row in slices[n]["point_labels"].tolist() if slices[n]["label"].any()}
    assert any(4 in row for row in codes)  # a bar that is there, asked for by its token
    assert slices.absent == [1, 2]
    adapter = tmp_path / "a.safetensors"
    network = run.parser.get_parsed_content("network_def")
    write_adapter(adapter, Adapter(network.spec, network.adapter_tensors()))
    datalist = {"training": [{"image": "train/case0.npz", "label": "train/case0.npz"}], "labels": {"1": "bar"}}
    (tmp_path / "list.json").write_text(json.dumps(datalist))
    fewer = {**options, "tokens": None, "adapter": str(adapter), "datalist": str(tmp_path / "list.json")}
    run = workflow(TRAIN, "train", tmp_path, **{name: value for name, value in fewer.items() if value is not None})
    run.initialize()
    assert run.parser.get_parsed_content("train#dataset").absent == [1]  # nobody knows where blocks are in these data


def test_images_that_are_altered_each_time_are_not_cached(tmp_path, dataset_dir):
    with pytest.raises(RuntimeError) as error:
        train(tmp_path, dataset_dir, trunk_cache="memory", augment=True, layers="late")
    assert "trunk_cache keeps what images become, and augment alters them each time" in str(chain(error.value))
