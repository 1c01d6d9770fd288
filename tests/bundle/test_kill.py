"""A training that is killed, by signal 9, at any moment: what is there is whole, and it goes on to the same weights."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from sam_lora.adapter import read_adapter
from tests.conftest import BUNDLE

OPTIONS = {"image_size": 64, "device": "cpu", "min_pixels": 20, "epochs": 2, "accumulation_steps": 2, "checkpoint_interval": 2,
           "tokens": True, "decoder": "full", "layers": "late", "prompt_mode": "mix", "corrections": 1, "decay": "cosine"}  # fmt: skip


def start(output, dataset_dir, **options):
    words = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/train.json"]
    given = {"dataset_dir": dataset_dir, "output_dir": output, "ckpt_dir": output / "models", **OPTIONS, **options}
    for name, value in given.items():
        words += [f"--{name}", str(value)]
    log = (output.parent / f"{output.name}.log").open("ab")
    return subprocess.Popen(words, cwd=BUNDLE, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})


def run_folder(output):
    return next((folder for folder in output.glob("sam_lora-*")), None) if output.exists() else None


def assert_whole(folder):
    """Everything that is visible under its own name can be read to its end."""
    for path in folder.iterdir():
        if path.suffix == ".safetensors":
            read_adapter(path)  # checks its seal
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".pt":
            torch.load(path, weights_only=True)


@pytest.mark.accept
def test_kill_9_at_random_moments_then_resume(tmp_path, dataset_dir):
    assert start(tmp_path / "whole", dataset_dir).wait(300) == 0
    expected = read_adapter(run_folder(tmp_path / "whole") / "adapter_latest.safetensors")
    output, rng, kills = tmp_path / "killed", np.random.RandomState(0), 0
    while True:
        folder = run_folder(output)
        resumable = folder is not None and (folder / "checkpoint.pt").exists()
        process = start(output, dataset_dir, **({"resume": folder} if resumable else {}))
        before = (folder / "checkpoint.pt").stat().st_mtime_ns if resumable else 0
        while process.poll() is None and kills < 2:  # let it come further than before, then kill it somewhere
            folder = run_folder(output)
            checkpoint = folder / "checkpoint.pt" if folder else None
            if checkpoint and checkpoint.exists() and checkpoint.stat().st_mtime_ns > before:
                time.sleep(rng.rand())
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.05)
        code = process.wait(300)
        assert_whole(run_folder(output))
        if code != -signal.SIGKILL:
            break
    assert code == 0, (tmp_path / "killed.log").read_text()[-3000:]
    assert kills >= 2
    found = read_adapter(run_folder(output) / "adapter_latest.safetensors")
    assert found.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in expected.tensors.items())
