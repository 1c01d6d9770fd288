"""Trainings that go wrong, and trainings that are killed: what serves stays as good as it was, and whole."""

import itertools
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from monailabel_app.lib.adapters import Adapters
from monailabel_app.lib.datastores.local import StudiesFolder
from monailabel_app.lib.trainers.lora import LoraTraining
from sam_lora.cache import TensorCache
from sam_lora.cases import write_nifti
from sam_lora.volumes import Volume
from tests.conftest import REPOSITORY

NAMES = {1: "ball"}
SHAPE = (40, 44, 6)
PATIENTS = 6  # the second is held out


def ball(seed):
    """An image with a bright ball among darker ones, and the ball's mask."""
    rng = np.random.RandomState(seed)
    i, j, k = np.indices(SHAPE)
    x, y = rng.randint(12, 28, 2)
    mask = ((i - x) / 8) ** 2 + ((j - y) / 7) ** 2 + ((k - 3) / 3) ** 2 < 1
    return (rng.rand(*SHAPE) * 60 + 150 * mask).astype(np.float32), mask.astype(np.uint8)


def sabotaged(mask, inverted):
    """A mask moved by its own width inside its volume; or what it is not."""
    width = int(np.ptp(np.nonzero(mask.any((1, 2)))[0])) + 1
    moved = np.roll(mask, width if np.nonzero(mask)[0].max() + width < len(mask) else -width, 0)
    return (1 - mask if inverted else moved).astype(np.uint8)


def save(store, folder, number, label):
    path = write_nifti(folder / "drawn.nii.gz", label, np.eye(4))
    store.save_label(f"p{number}", str(path), "final", {"label_info": [{"name": "ball", "idx": 1}]})


class Counted(LoraTraining):
    """A training that ends after some epochs and not by the clock: the same on a slow machine."""

    epochs = 8

    def bundle_options(self, *given):
        return {**super().bundle_options(*given), "minutes": None, "slices": None, "epochs": self.epochs}


def training_of(folder, epochs=8):
    adapters = Adapters(folder / "adapters", "vit_t", "cpu", TensorCache(64 << 20))
    training = Counted(adapters, lambda: NAMES, folder / "records" / "training")
    training.epochs = epochs
    return training


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Six patients' images with good labels, and a champion that was trained on them."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "studies").mkdir()
    for n in range(PATIENTS):
        write_nifti(folder / "studies" / f"p{n}.nii.gz", ball(n)[0], np.eye(4))
    store, training = StudiesFolder(str(folder / "studies")), training_of(folder)
    for n in range(PATIENTS):
        save(store, folder, n, ball(n)[1])
    done = training({"preset": "decoder", "image_size": 64}, store)
    assert done["promoted"], done["why"]
    return folder, store


def answer_of(training):
    """What the champion makes of a slice."""
    volume = Volume(np.random.RandomState(0).randint(0, 255, SHAPE).astype(np.uint8))
    served = training.adapters.get()
    with torch.inference_mode():
        return served.name, served.embedder.embed(volume, [2])[0]


def spoil_and_train(site, times):
    """Train on sabotaged labels, each time another half of them inverted.

    Returns:
        of each training whether it was promoted, with its reason, and whether the champion's answers stayed.
    """
    folder, store = site
    held_out, training = set(store.holdout()), training_of(folder)
    trained_on = [n for n in range(PATIENTS) if f"p{n}" not in held_out]
    name, before = answer_of(training)
    results = []
    halves = itertools.combinations(trained_on, len(trained_on) // 2)
    for inverted in itertools.islice(halves, times):
        for n in trained_on:
            save(store, folder, n, sabotaged(ball(n)[1], inverted=n in inverted))
        done = training({"preset": "decoder"}, store)
        after = answer_of(training)
        results.append((done["promoted"], done["why"], after[0] == name and torch.equal(after[1], before)))
    for n in range(PATIENTS):
        save(store, folder, n, ball(n)[1])
    return results


@pytest.mark.accept
def test_a_sabotaged_training_is_not_promoted_and_an_honest_one_from_the_same_state_is(site):
    ((promoted, why, same),) = spoil_and_train(site, 1)
    assert not promoted, why
    assert why.startswith("Worse than the champion on the held-out cases: ")
    assert same
    done = training_of(site[0])({"preset": "decoder"}, site[1])
    assert done["promoted"], done["why"]


@pytest.mark.accept
def test_the_same_labels_make_the_same_adapter_with_activations_on_the_disk_or_without(tmp_path):
    (tmp_path / "studies").mkdir()
    for n in range(2):
        write_nifti(tmp_path / "studies" / f"p{n}.nii.gz", ball(n)[0], np.eye(4))
    store = StudiesFolder(str(tmp_path / "studies"))
    for n in range(2):
        save(store, tmp_path, n, ball(n)[1])
    adapters = Adapters(tmp_path / "adapters", "vit_t", "cpu", TensorCache(64 << 20))
    training = LoraTraining(adapters, lambda: NAMES, tmp_path / "records" / "training")
    request = {"preset": "fast", "image_size": 64, "minutes": 60, "slices": 12}
    one, other = (training(request, store) for _ in range(2))
    assert list((tmp_path / "records" / "trunk").iterdir())  # the second one read them
    tensors = [load_file(adapters.registry.path(done["adapter"])) for done in (one, other)]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    assert other["promoted"], other["why"]  # not worse: the same


@pytest.mark.soak
def test_of_ten_sabotaged_trainings_none_is_promoted(site):
    results = spoil_and_train(site, 10)
    assert [promoted for promoted, _, _ in results] == [False] * 10, results
    assert all(same for _, _, same in results)


TRAIN = """
import sys
from pathlib import Path
from tests.monailabel_app.test_retraining import training_of
from monailabel_app.lib.datastores.local import StudiesFolder
folder = Path(sys.argv[1])
while True:
    training = training_of(folder, 1)
    training.margin = 1.0  # each is promoted: moments before, in and after promotions are among those of the kills
    training({"preset": "decoder", "start": "base"}, StudiesFolder(str(folder / "studies")))
    print("trained", flush=True)
"""


def kill_while_training(site, times):
    folder, store = site
    registry = training_of(folder).adapters.registry
    path = os.pathsep.join([str(REPOSITORY / "bundle"), str(REPOSITORY), *sys.path])
    rng = random.Random(0)  # noqa: S311  moments of kills
    trained = 0
    for _ in range(times):
        known, line = set(registry.names()), [one["name"] for one in registry.line()]
        process = subprocess.Popen(
            [sys.executable, "-c", TRAIN, str(folder)], cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        assert b"trained\n" in iter(process.stdout.readline, b"")  # moments are spread over the one after the first
        trained += 1
        time.sleep(rng.uniform(0, 8))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert registry.verify() == []
        assert known <= set(registry.names())
        grown = [one["name"] for one in registry.line()]
        assert grown[: len(line)] == line
        assert len(grown) > len(line)
        served = training_of(folder).adapters.get()
        assert served.name == registry.champion() != "none"
        assert sorted(store.get_labeled_images()) == [f"p{n}" for n in range(PATIENTS)]
    assert len(registry.names()) >= trained


@pytest.mark.accept
def test_a_training_that_is_killed_leaves_a_champion_and_a_whole_registry(site):
    kill_while_training(site, 2)


@pytest.mark.soak
def test_trainings_that_are_killed_at_twenty_moments_leave_a_champion_and_a_whole_registry(site):
    kill_while_training(site, 20)
