"""Activations that are computed when a label is saved are those that the next training asks for."""

import threading

import numpy as np
import pytest
from monai.bundle import ConfigParser

from monailabel_app.lib.adapters import Adapters
from monailabel_app.lib.datastores.local import StudiesFolder
from monailabel_app.lib.device import Device
from monailabel_app.lib.trainers import warm as module
from monailabel_app.lib.trainers.cases import TrainingCases
from monailabel_app.lib.trainers.lora import LoraTraining
from monailabel_app.lib.trainers.warm import Warm
from sam_lora.cache import TensorCache
from sam_lora.cases import write_nifti


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "studies"
    folder.mkdir()
    for n in range(3):
        shape = (24, 28 + 20 * (n == 2), 2)  # the largest decides how large all are shown to the network
        write_nifti(folder / f"p{n}.nii.gz", np.random.RandomState(n).rand(*shape).astype(np.float32), np.eye(4))
        label = np.zeros(shape, np.uint8)
        label[5:15, 5:15, 1] = 1
        drawn = write_nifti(tmp_path / "drawn.nii.gz", label, np.eye(4))
        StudiesFolder(str(folder)).save_label(f"p{n}", str(drawn), "final", {})
    return StudiesFolder(str(folder))


@pytest.fixture
def training(tmp_path):
    return LoraTraining(
        Adapters(tmp_path / "adapters", "vit_t", "cpu", TensorCache(1)), lambda: {1: "spleen"}, tmp_path / "training"
    )


def test_a_training_on_more_cases_computes_nothing_anew_for_those_that_are_ready(training, store, tmp_path):
    warm = Warm(training, store, Device("cpu"), lambda: False)
    assert warm.fill("p0") == 2 * 8  # slices, and versions of each
    ready = {path.name for path in training.trunk.iterdir()}
    assert 8 < len(ready) <= 16  # a version that no transform altered is there once
    assert warm.fill("p1") == 0  # the second patient is held out
    assert not (tmp_path / "warm" / "p0").exists()
    # The training's own dataset, with another case before it.
    run = tmp_path / "run"
    run.mkdir()
    cases = TrainingCases(store, {1: "spleen"})
    used, _ = cases.write(run, 2)
    cases.write_list(run, used[::-1])
    options = training.bundle_options(run, {**training.check({}, store), "parent": "none"}, cases)
    parser = ConfigParser(ConfigParser.load_config_files(options.pop("config_file")))
    parser.update(options)
    dataset, trunk = parser.get_parsed_content("train#dataset"), parser.get_parsed_content("trunk")
    for index in range(len(dataset) * 8):
        number, _ = dataset.places[index % len(dataset)]
        if dataset.data[number]["name"] == "p0":
            trunk(dataset[index]["image"][None])
    assert {path.name for path in training.trunk.iterdir()} == ready


def test_it_ends_when_a_training_begins(training, store):
    assert Warm(training, store, Device("cpu"), lambda: True).fill("p0") == 0


def test_a_label_that_is_saved_during_a_training_waits_for_its_end(training, store, monkeypatch):
    running, filled = threading.Event(), threading.Event()
    running.set()
    monkeypatch.setattr(module, "_PAUSE", 0.02)
    warm = Warm(training, store, Device("cpu"), running.is_set)
    monkeypatch.setattr(warm, "fill", lambda _: filled.set())
    warm.start("p0")
    assert not filled.wait(0.2)
    running.clear()
    assert filled.wait(20)
