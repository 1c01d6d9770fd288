"""What a training is made of, what it leaves behind, and when what it made serves."""

import json

import nibabel
import numpy as np
import pytest
import torch

from monailabel_app.lib.adapters import Adapters
from monailabel_app.lib.datastores.local import StudiesFolder
from monailabel_app.lib.trainers import cases as cases_module
from monailabel_app.lib.trainers import lora
from monailabel_app.lib.trainers.cases import TrainingCases
from monailabel_app.lib.trainers.lora import LoraTraining
from monailabel_app.lib.trainers.retraining import Retraining
from monailabel_app.lib.trainers.settings import TrainingError
from sam_lora import promotion
from sam_lora.adapter import Adapter, write_adapter
from sam_lora.build import build_sam_lora
from sam_lora.cache import TensorCache
from sam_lora.cases import write_nifti
from sam_lora.promotion import Verdict
from sam_lora.reading import read_array

NAMES = {1: "spleen", 2: "liver"}


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "studies"
    folder.mkdir()
    for n in range(3):
        write_nifti(folder / f"p{n}.nii.gz", np.random.RandomState(n).rand(35, 50, 3).astype(np.float32), np.eye(4))
    return StudiesFolder(str(folder))


@pytest.fixture
def training(tmp_path):
    adapters = Adapters(tmp_path / "adapters", "vit_t", "cpu", TensorCache(1))
    return LoraTraining(adapters, lambda: NAMES, tmp_path / "training")


@pytest.fixture
def trained(training, monkeypatch):
    """The training itself is left out: it leaves an adapter of the small network behind. Says what it was given."""
    given = []

    def run(**settings):
        network = build_sam_lora(image_size=64, labels=NAMES, tokens=True, decoder="full")
        network.adapter_tensors()["prompt_encoder.label_tokens.weight"].add_(0.01 * len(given))  # each is another
        folder = lora.Path(settings["output_dir"]) / "train-1"
        folder.mkdir(parents=True)
        adapter = Adapter(network.spec, network.adapter_tensors(), {"preset": "fast", "number": len(given)})
        write_adapter(folder / "adapter_latest.safetensors", adapter)
        (folder / "history.json").write_text('[{"seconds": 30.0, "slices": 100}]')
        given.append(settings | {"list": json.loads(lora.Path(settings["datalist"]).read_text())})

    monkeypatch.setattr(lora, "run_bundle", run)
    return given


def save(store, tmp_path, image, info=None):
    label = np.zeros((35, 50, 3), np.uint8)
    label[5:9, 5:9, 1] = 1
    store.save_label(image, str(write_nifti(tmp_path / "drawn.nii.gz", label, np.eye(4))), "final", info or {})


def verdict(promoted):
    return Verdict(promoted, "for a reason.", {"jittered_box": {"challenger": 0.7, "pairs": []}})


def test_settings_are_read_before_anything_starts(training, store, tmp_path):
    save(store, tmp_path, "p0")
    asked = {"preset": ["accurate"], "minutes": "2", "slices": 0, "image_size": "", "axis": "1", "start": "base"}
    assert training.check(asked, store) == {
        "preset": "accurate", "minutes": 2.0, "slices": 0, "image_size": 0, "axis": 1, "start": "base",
    }  # fmt: skip
    assert training.check({}, store)["slices"] == training.config()["slices"] == 600
    assert training.check({"minutes": 20}, store)["slices"] == 0  # all of them
    assert training.check({}, store)["preset"] == training.config()["preset"][0] == "fast"  # no GPU here
    for request, sentence in (
        ({"preset": "x"}, "preset must be one of fast, accurate, decoder, got 'x'"),
        ({"start": "x"}, "start must be one of base, champion, got 'x'"),
        ({"minutes": 0}, "minutes must be a number from 0.05 to 1440, got 0"),
        ({"minutes": True}, "minutes must be a number"),
        ({"slices": 0.5}, "slices must be a whole number, got 0.5"),
        ({"image_size": 64.5}, "image_size must be a whole number, got 64.5"),
        ({"slices": -1}, "slices must be a number from 0 to 10000000, got -1"),
        ({"image_size": 100}, "image_size must be a multiple of 16, or 0 to fit the images, got 100"),
    ):
        with pytest.raises(ValueError, match=sentence):
            training.check(request, store)


def test_without_a_label_nothing_starts(training, store, tmp_path):
    with pytest.raises(ValueError, match="There is no label to train on: save at least one"):
        training.check({}, store)
    assert training.stats() == {}


def test_who_is_held_out_is_in_no_list_and_labels_get_their_names_values(training, store, tmp_path):
    for image in ("p2", "p0", "p1"):
        save(store, tmp_path, image, {"label_info": [{"name": "liver", "idx": 7}]})
    cases = TrainingCases(store, NAMES)
    folder = tmp_path / "run"
    folder.mkdir()
    used, held_out = cases.write(folder, 2)
    assert [entry["name"] for entry in used] == ["p1", "p2"]
    assert [entry["name"] for entry in held_out] == ["p0"]  # the second that was labelled
    assert "p0" not in (folder / "datalist.json").read_text()
    assert json.loads((folder / "datalist.json").read_text())["labels"] == {"1": "spleen", "2": "liver"}
    assert set(np.unique(np.asanyarray(nibabel.load(used[0]["label"]).dataobj))) == {0, 2}
    assert cases.described(held_out) == [
        {"image": "p0", "patient": "p0", "label_digest": store.get_label_info("p0", "final")["digest"]}
    ]
    assert (cases.fitting_size("vit_t", 2), cases.slices(used)) == (64, 6)


@pytest.mark.parametrize("asked", ["holdout", "get_labeled_images"])
def test_who_is_labelled_while_a_training_looks_is_not_trained_on_if_held_out(store, tmp_path, monkeypatch, asked):
    save(store, tmp_path, "p0")
    ask = getattr(store, asked)

    def ask_then_save(*_):
        found = ask()
        monkeypatch.setattr(store, asked, ask)
        save(store, tmp_path, "p1")
        return found

    monkeypatch.setattr(store, asked, ask_then_save)
    assert TrainingCases(store, NAMES).images() == ["p0"]
    assert store.holdout() == ["p1"]


def test_a_label_that_is_saved_while_it_is_read_keeps_its_names(store, tmp_path, monkeypatch):
    save(store, tmp_path, "p0", {"label_info": [{"name": "spleen", "idx": 1}]})
    (tmp_path / "run").mkdir()
    read = []

    def read_then_save(path, name):
        if not read:
            save(StudiesFolder(str(tmp_path / "studies")), tmp_path, "p0", {"label_info": [{"name": "liver"}]})
        read.append(path)
        return read_array(path, name)

    monkeypatch.setattr(cases_module, "read_array", read_then_save)
    ((entry,), _) = TrainingCases(store, NAMES).write(tmp_path / "run", 2)
    assert set(np.unique(np.asanyarray(nibabel.load(entry["label"]).dataobj))) == {0, 2}
    assert len(read) == 2


def test_a_label_that_cannot_be_used_is_named(store, tmp_path):
    save(store, tmp_path, "p0", {"label_info": [{"name": "lung", "idx": 1}]})
    (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match="The label of p0 cannot be used. The label map holds the segment 'lung'"):
        TrainingCases(store, NAMES).write(tmp_path / "run", 2)


@pytest.mark.parametrize("promoted", [True, False])
def test_a_challenger_is_kept_with_its_pedigree_and_serves_only_if_promoted(
    training, store, tmp_path, trained, monkeypatch, promoted
):
    for image in ("p0", "p1", "p2"):
        save(store, tmp_path, image)
    monkeypatch.setattr(training, "_judge", lambda *_: verdict(promoted))
    done = training({"minutes": 1}, store)
    registry = training.adapters.registry
    assert registry.names() == [done["adapter"]]
    assert registry.champion() == (done["adapter"] if promoted else "none")
    pedigree = registry.pedigree(done["adapter"])
    assert [one["image"] for one in pedigree["cases"]] == ["p0", "p2"]
    assert [one["image"] for one in pedigree["held_out"]] == ["p1"]
    assert (pedigree["parent"], pedigree["parent_digest"], pedigree["why"]) == ("none", "", "for a reason.")
    assert pedigree["settings"]["device"] == "cpu"
    assert set(pedigree["seconds"]) == {"cases", "training", "judging"}
    stats = training.stats()
    assert (stats["promoted"], stats["best_metric"], stats["training_cases"], stats["held_out_cases"]) == (
        promoted, 0.7, 2, 1,
    )  # fmt: skip


def test_a_training_starts_from_the_champion_where_it_fits_and_else_from_the_base(
    training, store, tmp_path, trained, monkeypatch
):
    save(store, tmp_path, "p0")
    monkeypatch.setattr(training, "_judge", lambda *_: verdict(True))
    going_on = {"start": "champion"}
    first = training(going_on, store)["adapter"]
    second = training(going_on, store)["adapter"]
    training({}, store)
    training({**going_on, "preset": "decoder"}, store)
    monkeypatch.setattr(training, "names", lambda: {**NAMES, 3: "kidney"})
    training(going_on, store)
    path = training.adapters.registry.path
    assert [one.get("adapter") for one in trained] == [None, str(path(first)), None, None, None]
    assert training.adapters.registry.pedigree(second)["parent"] == first
    assert trained[0]["image_size"] == 64
    assert "image_size" not in trained[1]  # the champion's


def test_a_champion_that_has_the_labels_by_other_values_is_no_start(training, store, tmp_path, trained, monkeypatch):
    save(store, tmp_path, "p0")
    monkeypatch.setattr(training, "_judge", lambda *_: verdict(True))
    training({}, store)
    monkeypatch.setattr(training, "names", lambda: {1: "liver", 2: "spleen"})
    assert training.parent(training.check({"start": "champion"}, store)) == "none"


def test_who_promotes_while_a_challenger_is_judged_has_the_last_word(training, store, tmp_path, trained, monkeypatch):
    save(store, tmp_path, "p0")
    monkeypatch.setattr(training, "_judge", lambda *_: verdict(True))
    first = training({}, store)["adapter"]

    def judge_meanwhile(*_):
        training.adapters.registry.rollback()
        return verdict(True)

    monkeypatch.setattr(training, "_judge", judge_meanwhile)
    done = training({}, store)
    assert training.adapters.registry.champion() == "none"
    assert done["promoted"] is False
    assert f"was compared with {first}, and none serves now" in done["why"]


def test_the_champion_is_not_measured_again_on_labels_that_are_the_same(
    training, store, tmp_path, trained, monkeypatch, caplog
):
    for image in ("p0", "p1"):
        save(store, tmp_path, image)
    measured = []
    measure = promotion._measure
    monkeypatch.setattr(promotion, "_measure", lambda *given: measured.append(given[1].name) or measure(*given))
    training({}, store)
    assert measured == ["p1"] * 2  # by the base and by the challenger, which is promoted: both say the same
    assert training.adapters.registry.champion() != "none"
    training({}, store)
    assert measured == ["p1"] * 3  # only by the new challenger
    label = np.zeros((35, 50, 3), np.uint8)
    label[20:30, 20:30, 1] = 1
    store.save_label("p1", str(write_nifti(tmp_path / "redrawn.nii.gz", label, np.eye(4))), "final", {})
    training({}, store)
    assert measured == ["p1"] * 5
    (training.folder / "measured.json").write_text("{")
    training({}, store)
    assert measured == ["p1"] * 7
    assert "measured.json cannot be read: the champion is measured again." in caplog.text


def test_too_little_memory_is_a_sentence_and_the_champion_stays(training, store, tmp_path, monkeypatch):
    save(store, tmp_path, "p0")

    def run(**_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(lora, "run_bundle", run)
    with pytest.raises(ValueError, match="cpu has too little memory for this training, the champion stays"):
        training({}, store)
    assert training.adapters.registry.names() == []
    assert training.stats()["why"].startswith("cpu has too little memory for this training")


def no_memory():
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ({"minutes": "$__import__('tests.monailabel_app.lib.trainers.test_lora', fromlist=['x']).no_memory()"},
         "cpu has too little memory for this training, the champion stays"),
        ({"rank": 0}, "rank must be a whole number of at least 1, got 0"),
    ],
)  # fmt: skip
def test_what_goes_wrong_inside_a_config_is_a_sentence_all_the_same(
    training, store, tmp_path, monkeypatch, fault, sentence
):
    """MONAI's parser raises another error around what its configs raise."""
    save(store, tmp_path, "p0")
    options = training.bundle_options
    monkeypatch.setattr(training, "bundle_options", lambda *given: {**options(*given), **fault})
    with pytest.raises(TrainingError, match=sentence):
        training({}, store)
    assert training.stats()["why"].startswith(sentence)


def test_a_training_that_ends_before_it_begins_is_shown_and_not_begun_again_by_the_next_label(
    training, store, tmp_path, trained, monkeypatch
):
    save(store, tmp_path, "p0", {"label_info": [{"name": "a tumour", "idx": 1}]})
    retraining = Retraining(training, store, 1)
    assert retraining.is_due()
    monkeypatch.setattr(lora.time, "time", lambda: 4e9)  # long after that label
    with pytest.raises(ValueError, match="The label of p0 cannot be used"):
        training({}, store)
    assert training.stats()["why"].startswith("The label of p0 cannot be used")
    assert (trained, retraining.is_due()) == ([], False)


def test_a_label_that_is_removed_while_a_training_reads_is_left_out(training, store, tmp_path, caplog):
    for image in ("p0", "p1", "p2"):
        save(store, tmp_path, image)
    cases = TrainingCases(store, NAMES)
    images = cases.images()
    store.remove_label("p2", "final")
    assert images == ["p0", "p2"]
    assert [one["name"] for one in cases._entries(images, tmp_path, 2)] == ["p0"]
    assert "p2 was removed meanwhile: the training goes on without it" in caplog.text


def test_a_challenger_is_promoted_over_the_champion_that_could_not_be_loaded(
    training, store, tmp_path, trained, monkeypatch
):
    save(store, tmp_path, "p0")
    judged = []
    monkeypatch.setattr(training, "_judge", lambda served, *_: judged.append(served.name) or verdict(True))
    first = training({}, store)["adapter"]
    monkeypatch.setattr(training.adapters, "get", lambda: training.adapters._load("none", ""))  # as if it could not
    done = training({}, store)
    assert judged == ["none", "none"]
    assert done["promoted"], done["why"]
    assert [one["name"] for one in training.adapters.registry.line()] == [first, done["adapter"]]


def test_a_training_is_due_after_so_many_new_labels(training, store, tmp_path, trained, monkeypatch):
    every, never = Retraining(training, store, 2), Retraining(training, store, 0)
    due = []
    for image in ("p0", "p1"):
        save(store, tmp_path, image)
        due.append((every.is_due(), never.is_due()))
    assert due == [(False, False), (True, False)]
    monkeypatch.setattr(training, "_judge", lambda *_: verdict(False))
    monkeypatch.setattr(lora.time, "time", lambda: 4e9)  # long after those labels
    training({}, store)
    assert not every.is_due()
    monkeypatch.setattr(lora.time, "time", lambda: store.get_label_info("p1", "final")["ts"] + 0.9)
    training({}, store)
    assert every.new_labels() >= 1  # one of the same second may have come after the training had looked
    with pytest.raises(ValueError, match="train_every must be a number of labels, or 0 for never, got -1"):
        Retraining(training, store, -1)


def test_no_hold_out_case_is_ever_trained_on_while_labels_grow(tmp_path, training, trained, monkeypatch):
    folder = tmp_path / "many"
    folder.mkdir()
    for n in range(12):
        write_nifti(folder / f"p{n:02}.nii.gz", np.random.RandomState(n).rand(35, 50, 3).astype(np.float32), np.eye(4))
    store = StudiesFolder(str(folder))
    monkeypatch.setattr(training, "_judge", lambda *_: verdict(True))
    order = np.random.RandomState(0).permutation(12).tolist()
    for some in (order[:1], order[1:2], order[2:6], order[6:9], order[9:]):
        for n in some:
            save(store, tmp_path, f"p{n:02}")
        training({}, store)
    registry = training.adapters.registry
    pedigrees = [registry.pedigree(name) for name in registry.names()]
    held_out = [{one["image"] for one in pedigree["held_out"]} for pedigree in pedigrees]
    seen = [{one["image"] for one in pedigree["cases"]} for pedigree in pedigrees]
    assert sorted(map(len, seen)) == [1, 1, 5, 7, 9]
    assert max(held_out, key=len) == {f"p{order[n]:02}" for n in (1, 6, 11)}
    assert not set.union(*held_out) & set.union(*seen)
