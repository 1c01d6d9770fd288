"""How a training ends, and how it is continued: after a kill, or from its adapter."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from sam_lora.adapter import read_adapter
from tests.bundle.running import chain, train

RECIPE = {"tokens": True, "prompt_mode": "mix", "corrections": 2, "balanced": True, "slices_per_epoch": 6, "decoder": "full",
          "optimizer_name": "AdamW", "decay": "cosine", "warm_up": 2, "max_norm": 0.5, "iou_weight": 0.5, "layers": "late",
          "trunk_cache": "memory"}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The same training, never killed: its options, data, and last adapter."""
    trained = {}

    def run(recipe, dataset_dir):
        if recipe not in trained:
            options = RECIPE if recipe == "recipe" else {}
            folder = train(tmp_path_factory.mktemp(recipe), dataset_dir, **options)
            trained[recipe] = options, read_adapter(folder / "adapter_latest.safetensors")
        return trained[recipe]

    return run


@pytest.mark.parametrize(("recipe", "stop_after"), [("plain", 11), ("recipe", 2), ("recipe", 9)])
def test_a_killed_run_continues_to_the_same_weights(tmp_path, dataset_dir, whole, recipe, stop_after, monkeypatch):
    options, whole_adapter = whole(recipe, dataset_dir)

    from ignite.engine import Events

    from sam_lora.training import TrainingRun

    class KilledError(Exception):
        pass

    attach = TrainingRun.attach

    def attach_and_kill(self, engine):
        attach(self, engine)

        @engine.on(Events.ITERATION_COMPLETED(once=stop_after))
        def kill(_):
            raise KilledError("killed here")

    monkeypatch.setattr(TrainingRun, "attach", attach_and_kill)
    with pytest.raises(RuntimeError, match="Failed to evaluate") as error:
        train(tmp_path / "killed", dataset_dir, **options)
    assert "killed here" in chain(error.value)
    monkeypatch.undo()
    (folder,) = (tmp_path / "killed" / "out").iterdir()
    assert train(tmp_path / "killed", dataset_dir, **options, resume=str(folder)) == folder
    resumed = read_adapter(folder / "adapter_latest.safetensors")
    assert all(torch.equal(resumed.tensors[name], tensor) for name, tensor in whole_adapter.tensors.items())
    history = json.loads((folder / "history.json").read_text())
    expected = {name: value for name, value in whole_adapter.record["metrics"].items() if name != "seconds"}
    assert {name: history[-1][name] for name in expected} == pytest.approx(expected)
    with pytest.raises(RuntimeError, match="Failed to") as error:
        train(tmp_path / "killed", dataset_dir, **options, resume=str(folder))
    assert "has finished its 2 epochs: give more `--epochs` to continue" in str(chain(error.value))


def test_a_run_is_not_continued_with_another_rank_or_other_cases(tmp_path, dataset_dir):
    folder = train(tmp_path, dataset_dir, epochs=1)
    with pytest.raises(RuntimeError, match="Failed to") as error:
        train(tmp_path, dataset_dir, epochs=2, resume=str(folder), rank=8)
    assert "was trained with rank 4, now it is 8: keep it to resume" in str(chain(error.value))
    with pytest.raises(RuntimeError, match="Failed to") as error:
        train(tmp_path, dataset_dir, epochs=2, resume=str(folder), learning_rate=0.5)
    assert "was trained with learning_rate 0.001, now it is 0.5: keep it to resume" in str(chain(error.value))
    config = json.loads((folder / "config.json").read_text())
    del config["parts"]  # as a run was written when there were none
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match="Failed to") as error:
        train(tmp_path, dataset_dir, epochs=2, resume=str(folder), parts=True)
    assert "was trained with parts False, now it is True: keep it to resume" in str(chain(error.value))
    (dataset_dir / "train" / "case1.npz").unlink()
    with pytest.raises(RuntimeError, match="Failed to") as error:
        train(tmp_path, dataset_dir, epochs=2, resume=str(folder))
    assert "was trained on other cases than dataset_dir or datalist has now" in str(chain(error.value))
    with pytest.raises(RuntimeError, match="Failed to") as error:
        train(tmp_path, dataset_dir, resume=str(tmp_path))
    assert "resume must be the folder of a run that was stopped" in str(chain(error.value))


def test_a_training_on_a_cpu_steps_by_the_fused_kernel(tmp_path, dataset_dir):
    state = torch.load(train(tmp_path, dataset_dir, epochs=1) / "checkpoint.pt", weights_only=True)
    assert all(group["fused"] for group in state["optimizer"]["param_groups"])


def test_a_run_that_diverges_says_so_and_publishes_nothing(tmp_path, dataset_dir):
    with pytest.raises(RuntimeError, match="Failed to") as error:
        train(tmp_path, dataset_dir, learning_rate=1e30)
    assert "The loss became nan in iteration" in str(chain(error.value))
    assert list((tmp_path / "models").iterdir()) == []


def test_time_ends_a_training_in_the_middle_of_an_epoch(tmp_path, dataset_dir):
    folder = train(tmp_path, dataset_dir, minutes=0.01, balanced=True, slices_per_epoch=500)
    (row,) = json.loads((folder / "history.json").read_text())
    assert row["seconds"] >= 0.6
    assert row["slices"] < 500
    assert row["slices"] % 2 == 0  # at the end of an optimizer step
    assert (tmp_path / "models" / "model.pt").is_file()
    with pytest.raises(RuntimeError) as error:
        train(tmp_path, dataset_dir, minutes=0.01, balanced=True, slices_per_epoch=500, resume=str(folder))
    assert "has had its 0.01 minutes: give more `--minutes` to continue" in str(chain(error.value))


def test_slices_end_a_training_however_fast_the_machine_is(tmp_path, dataset_dir):
    settings = {"slices": 6, "slices_per_epoch": 4, "decay": "cosine"}
    folder = train(tmp_path, dataset_dir, **settings)
    history = json.loads((folder / "history.json").read_text())
    assert [row["slices"] for row in history] == [4, 6]  # in the middle of the second epoch
    again = train(tmp_path, dataset_dir, **settings, minutes=60)  # an end that is not reached changes nothing
    one, other = (load_file(run / "adapter_latest.safetensors") for run in (folder, again))
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(RuntimeError) as error:
        train(tmp_path, dataset_dir, **settings, resume=str(folder))
    assert "has had its 6 slices: give more `--slices` to continue" in str(chain(error.value))
    train(tmp_path, dataset_dir, **{**settings, "slices": 10}, resume=str(folder))
    assert json.loads((folder / "history.json").read_text())[-1]["slices"] == 10


def test_a_training_without_a_new_best_ends_after_its_patience(tmp_path, dataset_dir):
    shutil.copytree(dataset_dir / "test", dataset_dir / "validation")
    folder = train(tmp_path, dataset_dir, patience=1, epochs=9, learning_rate=1e-12, slices_per_epoch=2)
    history = json.loads((folder / "history.json").read_text())
    assert len(history) == 2  # the second validation was no better than the first
    before = (folder / "checkpoint.pt").read_bytes()
    with pytest.raises(RuntimeError) as error:
        train(tmp_path, dataset_dir, patience=1, epochs=9, learning_rate=1e-12, slices_per_epoch=2, resume=str(folder))
    assert "ended after 1 validations without a new best: give more `--patience` to continue" in str(chain(error.value))
    assert (folder / "checkpoint.pt").read_bytes() == before


def test_an_adapter_is_trained_further_as_it_is(tmp_path, dataset_dir):
    first = train(tmp_path, dataset_dir, rank=2, layers=[8, 9], epochs=1) / "adapter_best.safetensors"
    spec = read_adapter(
        train(tmp_path / "further", dataset_dir, adapter=str(first), epochs=1) / "adapter_best.safetensors"
    ).spec
    assert (spec.rank, spec.layers, spec.labels) == (2, (8, 9), {1: "bar", 2: "block"})


def test_mixed_precision_on_a_cpu_trains_nearly_the_same_adapter(tmp_path, dataset_dir):
    exact, mixed = (train(tmp_path / str(amp), dataset_dir, amp=amp, epochs=1) for amp in (False, True))
    found = [load_file(run / "adapter_latest.safetensors") for run in (exact, mixed)]
    vectors = [torch.cat([f[name].flatten() for name in sorted(f)]) for f in found]
    assert not torch.equal(*vectors)
    assert torch.cosine_similarity(*vectors, dim=0) > 0.99
    with pytest.raises(RuntimeError, match="Failed to") as error:
        train(tmp_path / "True", dataset_dir, amp=False, epochs=2, resume=str(mixed))
    assert "was trained with amp True, now it is False: keep it to resume" in str(chain(error.value))
