"""Several processes: torchrun, gloo on a CPU."""

import pytest
import torch

from sam_lora.adapter import read_adapter
from tests.conftest import BUNDLE, run_python

FAST = ["--image_size", "64", "--device", "cpu", "--min_pixels", "20", "--epochs", "2", "--accumulation_steps", "2",
        "--tokens", "True", "--prompt_mode", "mix", "--decoder", "full", "--max_norm", "0.5", "--iou_weight", "0.5",
        "--optimizer_name", "SGD", "--learning_rate", "10", "--decoder_learning_rate", "0.05"]  # fmt: skip
# SGD: Adam makes whole steps of gradients that are nothing but rounding (a key's bias cancels in the softmax).


def train(tmp_path, name, dataset_dir, launcher, configs, batch_size):
    output = tmp_path / name
    done = run_python(
        *launcher, "-m", "monai.bundle", "run", "--config_file", str(configs), "--dataset_dir", dataset_dir, *FAST,
        "--output_dir", output, "--ckpt_dir", output / "models", "--batch_size", str(batch_size),
        cwd=BUNDLE, OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = (folder for folder in output.iterdir() if folder.name.startswith("sam_lora-"))
    return run


@pytest.mark.accept
def test_two_processes_train_as_one_with_twice_the_batch(tmp_path, dataset_dir):
    one = train(tmp_path, "one", dataset_dir, [], "configs/train.json", 2)
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29517"]
    both = "['configs/train.json','configs/multi_gpu_train.json']"
    two = train(tmp_path, "two", dataset_dir, launcher, both, 1)
    names = {path.name.split(".")[0] for path in two.iterdir()}
    assert names == {path.name.split(".")[0] for path in one.iterdir()}  # one of the two writes, once
    expected, found = (read_adapter(run / "adapter_latest.safetensors") for run in (one, two))
    for name, tensor in expected.tensors.items():
        assert torch.allclose(found.tensors[name], tensor, atol=1e-5), name
    moved = expected.tensors["image_encoder.layers.3.blocks.1.attn.qkv.lora_b_q"]
    assert moved.abs().max() > 5e-4  # 0 at the start
