"""The training benchmark: what it times is one and the same step."""

import json

import pytest

from benchmarks.train import SAME, train


@pytest.mark.accept
def test_a_step_of_ours_and_of_peft_are_the_same_step(tmp_path, capsys):
    train(rounds=1, only="vit_t", json=str(tmp_path / "figures.json"))
    step = json.loads((tmp_path / "figures.json").read_text())["vit_t step"]
    assert 0 < step["difference"] < SAME
    assert all(step[side]["seconds"] > 0 for side in ("ours", "ours_checkpointing", "peft on LiteMedSAM"))
    assert "losses, gradients and updated weights agree to" in capsys.readouterr().out


def test_what_the_benchmark_refuses():
    with pytest.raises(ValueError, match="only must be one of .*, epoch, presets, got 'vit_x'."):
        train(only="vit_x")
