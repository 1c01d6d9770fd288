"""A copy of bundle/ alone, where the project is not installed, run by MONAI's command from another folder."""

import json
import shutil
import subprocess

import pytest

from sam_lora.weights import find_weights
from tests.bundle.test_metadata import SCHEMA
from tests.conftest import REPOSITORY

OPTIONS = ("--image_size", "64", "--device", "cpu", "--min_pixels", "20", "--checkpoint_interval", "2")
pytestmark = pytest.mark.accept


def bundle(python, *arguments, cwd):
    command = [python, "-m", "monai.bundle", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)


def run(python, copy, configs, *options, cwd):
    names = [str(copy / "configs" / f"{name}.json") for name in configs]
    return bundle(python, "run", "--config_file", str(names), "--bundle_root", copy, *options, cwd=cwd)


def test_the_copy_trains_continues_evaluates_and_infers(python, copy, dataset_dir, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.rmtree(dataset_dir / "validation", ignore_errors=True)
    output = ("--dataset_dir", dataset_dir, "--output_dir", tmp_path / "out")
    where = "$print('FILE', __import__('sam_lora').__file__)"
    done = run(python, copy, ["train"], *output, *OPTIONS, "--epochs", 1, "--every", 4, "--accumulation_steps", 1,
               "--run", f'["{where}", "$@train#trainer.run()"]', cwd=elsewhere)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"FILE {copy}/sam_lora/__init__.py" in done.stdout
    assert "29,696 of    5,756,436 trainable" in done.stderr
    (folder,) = (tmp_path / "out").iterdir()
    history = json.loads((folder / "history.json").read_text())
    assert len(history) == 1
    assert (copy / "models" / "model.pt").is_file()

    done = run(python, copy, ["train"], *output, *OPTIONS, "--epochs", 2, "--every", 4, "--accumulation_steps", 1,
               "--resume", folder, cwd=elsewhere)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((folder / "history.json").read_text())[0] == history[0]
    assert len(json.loads((folder / "history.json").read_text())) == 2

    adapter = ("--adapter", folder / "adapter_best.safetensors", "--device", "cpu")
    done = run(python, copy, ["train", "evaluate"], "--dataset_dir", dataset_dir, "--output_dir", tmp_path / "evaluation",
               *adapter, "--every", 2, cwd=elsewhere)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert list((tmp_path / "evaluation").glob("*/metrics.json"))

    prompts = '[{"label": "bar", "roi": [8, 19, 5, 11, 2, 2]}]'
    done = run(python, copy, ["inference"], "--image", dataset_dir / "test" / "case0.npz", "--prompts", prompts,
               *adapter, "--output_dir", tmp_path / "masks", cwd=elsewhere)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == str(tmp_path / "masks" / "case0_mask.nii.gz")
    assert list(elsewhere.iterdir()) == []


def test_torchrun_divides_the_test_cases(python, copy, dataset_dir, tmp_path):
    shutil.copy(dataset_dir / "train" / "case1.npz", dataset_dir / "test" / "other.npz")
    shutil.rmtree(dataset_dir / "train")
    prompts = '[{"label": "bar", "roi": [8, 19, 5, 11, 2, 2]}]'
    command = [python, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "monai.bundle", "run",
               "--config_file", copy / "configs" / "inference.json", "--bundle_root", copy, "--dataset_dir", dataset_dir,
               "--prompts", prompts, "--propagate", "True", *OPTIONS[:4], "--output_dir", tmp_path / "masks"]  # fmt: skip
    done = subprocess.run([*map(str, command)], cwd=copy, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(p.name for p in (tmp_path / "masks").iterdir()) == ["case0_mask.nii.gz", "other_mask.nii.gz"]
    assert done.stdout.count("_mask.nii.gz") == 2  # each by one process


def test_monai_verifies_metadata_and_network(python, copy, tmp_path):
    (tmp_path / "eval").mkdir()
    shutil.copy(SCHEMA, tmp_path / "eval" / "schema.json")
    done = bundle(python, "verify_metadata", "--meta_file", copy / "configs" / "metadata.json", "--filepath",
                  tmp_path / "eval" / "schema.json", "--hash_val", "06954cad2cc5d3784e72077ac76f0fc8", cwd=copy)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    done = bundle(python, "verify_net_in_out", "network_def", "--meta_file", copy / "configs" / "metadata.json",
                  "--config_file", copy / "configs" / "inference.json", "--device", "cpu", cwd=copy)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "verified" in done.stdout + done.stderr


@pytest.fixture
def broken(dataset_dir, tmp_path):
    """name -> (config names, options, sentence) for what a user can get wrong."""
    import numpy as np

    from tests.conftest import phantom

    image, label = phantom()
    folders = {}
    contents = {"no_imgs": {"gts": label}, "no_gts": {"imgs": image}, "shapes": {"imgs": image, "gts": label[:, 1:]},
                "nan": {"imgs": np.full(image.shape, np.nan), "gts": label}, "no_object": {"imgs": image, "gts": label * 0},
                "none": None}  # fmt: skip
    for name, arrays in contents.items():
        folders[name] = tmp_path / name
        (folders[name] / "train").mkdir(parents=True)
        if arrays is not None:
            np.savez(folders[name] / "train" / "case.npz", **arrays)
    (tmp_path / "file").touch()
    good = ("--dataset_dir", dataset_dir)
    return {
        "empty dataset": (("--dataset_dir", folders["none"]), "There is no case in"),
        "nothing": ((), "There is no training case: `--dataset_dir DIR`"),
        "no dataset": (("--dataset_dir", "nowhere"), "dataset_dir must be a folder with the cases, there is no 'nowhere'"),
        "no imgs": (("--dataset_dir", folders["no_imgs"]), "must hold `imgs` and `gts`; it has no `imgs`"),
        "no gts": (("--dataset_dir", folders["no_gts"]), "must hold `imgs` and `gts`; it has no `gts`"),
        "shapes": (("--dataset_dir", folders["shapes"]), "they must be equal"),
        "nan": (("--dataset_dir", folders["nan"]), "values that are NaN or infinite"),
        "no object": (("--dataset_dir", folders["no_object"]), "the masks are empty"),
        "missing weights": ((*good, "--weights", "nowhere.pth"), "The weights of vit_t are missing: there is no nowhere.pth"),
        "wrong hash": ((*good, "--weights", dataset_dir / "train" / "case0.npz"), "is not the published file of vit_t: its hash"),
        "another row's file": ((*good, "--variant", "vit_b", "--weights", find_weights("vit_t")),
                               "is the published file of vit_t, not of vit_b"),
        "rank 0": ((*good, "--rank", 0), "rank must be a whole number of at least 1, got 0"),
        "rank 129": ((*good, "--rank", 129), "rank must be a whole number from 1 to 128, the smaller side of this layer, got 129"),
        "unknown option": ((*good, "--learnin_rate", 5), "There is no setting 'learnin_rate'; 'learning_rate' is near"),
        "epochs 0": ((*good, "--epochs", 0), "epochs must be a whole number of at least 1, got 0"),
        "seed": ((*good, "--seed", -1), "seed must be a whole number of at least 0, got -1"),
        "variant": ((*good, "--variant", "vit_x"), "variant must be one of vit_b, vit_l, vit_h, medsam_vit_b, vit_t, got 'vit_x'"),
        "mode": ((*good, "--prompt_mode", "boxes"), "prompt_mode must be one of no, token, box, full_box, point, pt_box, mix"),
        "no prompt": ((*good, "--prompt_mode", "no"), "prompt_mode 'no' cannot tell 2 labels apart: bar, block"),
        "output": ((*good, "--output_dir", tmp_path / "file" / "x"), "output_dir must be a folder that can be written to"),
        "resume": ((*good, "--resume", tmp_path), "resume must be the folder of a run that was stopped"),
        "adapter": ((*good, "--adapter", dataset_dir / "train" / "case0.npz"), "no readable safetensors file"),
    }  # fmt: skip


def test_bad_input_ends_with_a_sentence_and_exit_code_1(python, copy, broken, tmp_path):
    for name, (options, sentence) in broken.items():
        more = () if "--output_dir" in options else ("--output_dir", tmp_path / "out")
        done = run(python, copy, ["train"], *options, *more, "--ckpt_dir", tmp_path / "models", cwd=REPOSITORY)
        assert done.returncode == 1, (name, done.stderr[-1500:])
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("error: "), (name, done.stderr[-1500:])
        assert sentence in last, (name, last)
        assert "Traceback" not in done.stderr, name
