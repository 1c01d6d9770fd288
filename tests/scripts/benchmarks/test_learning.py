"""The learning benchmark: splits, the order of its steps, continuing, differences, what it refuses."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from benchmarks import learning, target_lines
from benchmarks.cohorts import Cohort, load_cohort
from benchmarks.learning_page import HEADING, table, write_page
from benchmarks.measuring import difference, figure_of, measure
from benchmarks.peers import ours, unet3d
from benchmarks.peers.job import Job, Method, train_for
from benchmarks.peers.table import METHODS
from benchmarks.targets import TARGETS
from sam_lora.evaluation import Answer, CaseTruth, EvaluationRules
from tests.conftest import phantom
from tests.sam_lora.evaluation.toys import case_of

LABELS = {1: "bar", 2: "block"}


def write_cases(folder, count, first=0):
    folder.mkdir(exist_ok=True)
    entries = []
    for number in range(first, first + count):
        image, label = phantom(seed=number)
        path = folder / f"case{number:02d}.npz"
        np.savez_compressed(path, imgs=image, gts=label, spacing=[1.0, 1.0, 1.0])
        entries.append({"image": str(path), "label": str(path), "name": path.stem, "patient": path.stem})
    return entries


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    entries = write_cases(tmp_path_factory.mktemp("toys") / "cases", 6)
    return Cohort(entries[:3], entries[3:4], entries[4:], LABELS, 1)


def shifted(pixels):
    """Answers with the truth, moved: a method that is as good as one wants it to be."""

    def segmenter(truth, rules):
        answers = {}
        for protocol in rules.protocols:
            answers[protocol] = Answer()
            for k in truth.chosen:
                for value, mask in truth.objects(k).items():
                    answers[protocol].add(value, k, np.roll(mask, pixels, 1), 0.9)
        return answers

    return segmenter


class Recorder:
    """A table of methods that notes what is done with them."""

    def __init__(self, **shifts):
        self.done = []
        self.methods = {name: self._method(name, pixels) for name, pixels in shifts.items()}

    def _method(self, name, pixels):
        def train(job):
            self.done.append(("train", name, len(job.cases), job.seconds))
            return {"seconds": 1.0, "slices": 10 * len(job.cases)}

        def load(job):
            self.done.append(("load", name, job.folder.parent.name))
            return shifted(pixels)

        ours = name in ("fast", "accurate")
        return Method(name, train, load, automatic=name != "base", ours=ours)


def plan_of(cohort, folder, methods, cases=(1, 3), **options):
    folder.mkdir(exist_ok=True)
    return learning.Plan(cohort, list(cases), list(methods), 0.5, folder, every=3, **options)


@pytest.fixture(scope="module")
def finished(cohort, tmp_path_factory):
    """A plan that was run, what was done for it, and its figures."""
    recorder = Recorder(base=3, fast=2, accurate=1, peft=0)
    plan = plan_of(cohort, tmp_path_factory.mktemp("learning") / "work", recorder.methods)
    return plan, recorder.done, learning.run_plan(plan, recorder.methods)


def test_the_chosen_preset_is_the_best_on_validation_and_the_test_is_read_after_all_choices(finished):
    plan, done, figures = finished
    assert figures["chosen"] == {"1": "accurate", "3": "accurate"}
    trained = [n for n, one in enumerate(done) if one[0] == "train"]
    # after the last training, a peer's: the tests of three methods twice, of the base once
    assert len(done) - trained[-1] - 1 == 7
    assert [done[n][1:] for n in trained] == [
        ("base", 1, 30.0), ("fast", 1, 30.0), ("accurate", 1, 30.0), ("peft", 1, 30.0),
        ("fast", 3, 30.0), ("accurate", 3, 30.0), ("peft", 3, 30.0),
    ]  # fmt: skip
    found = figures["differences"]["1"]
    assert set(found) == {"base", "fast", "peft"}
    assert found["fast"]["jittered_box"]["ahead"] == "second"
    assert found["peft"]["jittered_box"]["ahead"] == "first"
    assert found["base"]["automatic"] is None
    assert json.loads((plan.folder / learning.RESULTS).read_text()) == figures


def test_the_page_holds_the_measured_figures(finished, tmp_path):
    _, _, figures = finished
    (tmp_path / "learning.md").write_text("# By hand\n\n" + HEADING + "an older table\n")
    write_page(figures, tmp_path)
    text = (tmp_path / "learning.md").read_text()
    assert text.startswith("# By hand\n\n" + HEADING)
    assert "an older table" not in text
    assert table(figures) in text
    assert "1 training case, Dice on the test cases; ours is the row in bold, the best on the validation cases" in text
    assert text.count("\n| ") == 10
    value = figures["runs"]["3"]["fast"]["test"]["summary"]["jittered_box"]["all"]["mean_object_dice"]["value"]
    (row,) = [line for line in text.split("3 training cases")[1].splitlines() if line.startswith("| fast")]
    assert f"| {value:.3f} [" in row
    assert (tmp_path / "learning.png").read_bytes().startswith(b"\x89PNG")


def without_clock(figures):
    for runs in figures["runs"].values():
        for run in runs.values():
            assert run["training"].pop("cpu_seconds") >= 0
    return figures


def test_a_stopped_run_continues_with_what_is_left(cohort, tmp_path):
    options = {"cases": [1], "protocols": ["jittered_box"]}
    whole, stopped = Recorder(fast=1, peft=2), Recorder(fast=1, peft=2)
    expected = learning.run_plan(plan_of(cohort, tmp_path / "whole", whole.methods, **options), whole.methods)
    peft = stopped.methods["peft"]

    def stop(job):
        raise KeyboardInterrupt

    stopped.methods["peft"] = dataclasses.replace(peft, train=stop)
    plan = plan_of(cohort, tmp_path / "work", stopped.methods, **options)
    with pytest.raises(KeyboardInterrupt):
        learning.run_plan(plan, stopped.methods)
    stopped.methods["peft"] = peft
    stopped.done.clear()
    assert without_clock(learning.run_plan(plan, stopped.methods)) == without_clock(expected)
    assert [one[1] for one in stopped.done if one[0] == "train"] == ["peft"]
    stopped.done.clear()
    learning.run_plan(plan, stopped.methods)
    assert stopped.done == []


def test_other_settings_do_not_continue_a_folder(cohort, tmp_path):
    recorder = Recorder(fast=1)
    learning.run_plan(plan_of(cohort, tmp_path / "work", recorder.methods, cases=[1]), recorder.methods)
    with pytest.raises(ValueError, match=r"work was begun with seed 0, now it is 1: use another --folder."):
        learning.run_plan(plan_of(cohort, tmp_path / "work", recorder.methods, cases=[1], seed=1), recorder.methods)


def test_validation_only_reads_no_test_case_and_makes_no_page(cohort, tmp_path):
    missing = [{**entry, "image": "missing.npz", "label": "missing.npz"} for entry in cohort.test]
    untested = dataclasses.replace(cohort, test=missing)
    recorder = Recorder(fast=1, peft=1)
    figures = learning.run_plan(plan_of(untested, tmp_path / "work", recorder.methods, [1]), recorder.methods, True)
    assert set(figures["runs"]["1"]["peft"]) == {"title", "training", "validation"}
    assert "Dice on the validation cases" in table(figures)
    with pytest.raises(ValueError, match=r"The page shows test figures: run without --validation_only"):
        write_page(figures, tmp_path)
    assert not (tmp_path / "learning.md").exists()


def test_a_difference_is_paired_by_case(finished):
    # Cases differ far more from each other than the two methods do in each of them.
    theirs = json.loads(json.dumps(finished[2]["runs"]["1"]["fast"]["test"]))
    for number, row in enumerate(row for row in theirs["rows"] if row["protocol"] == "jittered_box"):
        row["mean_slice_dice"] = 0.3 * number / 4
    better = json.loads(json.dumps(theirs))
    for row in better["rows"]:
        row["mean_slice_dice"] += 0.01
    found = difference(better, theirs, "jittered_box")
    assert found["difference"] == pytest.approx(0.01)
    assert found["interval"] == pytest.approx((0.01, 0.01))
    assert found["ahead"] == "second"
    for row in better["rows"]:
        row["mean_slice_dice"] -= 0.03 * (row["case"] == better["rows"][0]["case"])
    assert difference(better, theirs, "jittered_box")["ahead"] is None


def test_the_splits_are_those_of_the_names(data_dir):
    cohort = load_cohort("hippocampus")
    names = [entry["name"] for entry in [*cohort.training, *cohort.validation, *cohort.test]]
    assert (len(cohort.training), len(cohort.validation), len(cohort.test)) == (50, 10, 20)
    assert names == sorted(names)
    assert len(set(names)) == 80
    nerves = load_cohort("ultrasound")
    assert (len(nerves.training), len(nerves.validation), len(nerves.test)) == (48, 12, 40)
    assert all("/train/images/" in entry["image"] for entry in [*nerves.training, *nerves.validation])
    assert all("/test/images/" in entry["image"] for entry in nerves.test)
    assert nerves.min_pixels == 50


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"target": "nothing"}, f"target must be one of {', '.join(TARGETS)}, got 'nothing'."),
        ({"methods": "fast,slow"}, "methods must be out of base, fast, accurate, decoder, full, fit, peft, unet, unet3d, got 'slow'."),
        ({"cases": [1, 51]}, "cases must be whole numbers from 1 to 50, got [1, 51]."),
        ({"cases": 0}, "cases must be whole numbers from 1 to 50, got 0."),
        ({"settings": "rank"}, "settings must be a dictionary, like \"{'rank': 8}\", got 'rank'."),
        ({"minutes": 0}, "minutes must be a number above 0, got 0."),
        ({"settings": {"parts": True}, "methods": "fast,peft,unet"},
         "settings have parts, by which peft, unet cannot be trained: leave them out of methods."),
    ],
)  # fmt: skip
def test_what_the_command_refuses(options, sentence, data_dir, tmp_path):
    with pytest.raises(ValueError) as refused:  # noqa: PT011  the sentence is compared
        learning.learning(folder=str(tmp_path / "work"), **options)
    assert str(refused.value) == sentence


def test_missing_images_are_a_sentence(monkeypatch, tmp_path):
    monkeypatch.delenv("SAM_LORA_DATA", raising=False)
    with pytest.raises(ValueError, match="SAM_LORA_DATA must name the folder with the hippocampus images; it is not"):
        learning.learning(folder=str(tmp_path / "work"))
    monkeypatch.setenv("SAM_LORA_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"SAM_LORA_DATA must hold 80 images .*images/\*.nii.gz, there are 0."):
        learning.learning(folder=str(tmp_path / "work"))
    assert not (tmp_path / "work").exists()


def test_training_ends_with_its_time_and_counts_what_it_saw():
    import torch

    weight = torch.nn.Parameter(torch.ones(1))
    rates = []

    def loss_of(batch):
        rates.append(optimizer.param_groups[0]["lr"])
        return (weight * batch).sum()

    optimizer = torch.optim.SGD([weight], lr=1.0)
    done = train_for(0.05, iter(lambda: torch.ones(1), None), optimizer, loss_of, batch_size=3)
    assert 0.05 <= done["seconds"] < 1
    assert done["slices"] == 3 * len(rates)
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(1, abs=0.1)


def test_an_epoch_is_timed_after_the_first_which_fills_the_caches(finished):
    def training(*rows):
        return {"history": [{"seconds": seconds, "slices": slices} for seconds, slices in rows]}

    runs = {name: dict(finished[2]["runs"]["1"][name]) for name in ("fast", "accurate")}
    runs["fast"]["training"] = training((50.0, 100), (60.0, 200), (65.0, 250))
    runs["accurate"]["training"] = training((40.0, 100), (80.0, 200))
    assert target_lines.seconds_per_slice(runs["fast"]["training"]) == pytest.approx(0.1)
    (line,) = target_lines.against_accurate(runs, "jittered_box")
    assert line.startswith("fast beside accurate: 4.0x as fast an epoch, jittered_box Dice -0.")
    runs["accurate"]["training"] = training((40.0, 100))
    assert "an epoch not finished twice" in target_lines.against_accurate(runs, "jittered_box")[0]


def test_a_preset_learns_boxes_and_labels_apart_unless_the_job_says_how_it_is_prompted(cohort, tmp_path, monkeypatch):
    asked = []

    def train(job, _, settings):
        asked.append((job.folder, settings["prompt_mode"], settings["corrections"], job.seconds))
        return {"seconds": 1.0, "slices": len(asked)}

    monkeypatch.setattr(ours, "_train", train)
    job = plan_of(cohort, tmp_path / "both", ["fast"]).job("fast", 1)
    done = ours.train_preset("fast", job)
    assert asked == [(job.folder / "boxed", "box", 0, 30.0), (job.folder / "whole", "token", 0, 30.0)]
    assert done == {"seconds": 1.0, "slices": 1, "automatic": {"seconds": 1.0, "slices": 2}}
    settings = {"prompt_mode": "mix", "corrections": 2}
    job = plan_of(cohort, tmp_path / "one", ["fast"], settings=settings).job("fast", 1)
    assert ours.train_preset("fast", job) == {"seconds": 1.0, "slices": 3}
    assert asked[2:] == [(job.folder, "mix", 2, 30.0)]


def test_settings_of_a_job_go_over_those_of_its_two_networks(cohort, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(ours, "_train", lambda *given: asked.append(given) or {"seconds": 1.0, "slices": 1})
    ours.train_preset(
        "fast", plan_of(cohort, tmp_path, ["fast"], settings={"rank": 2, "image_size": 28}).job("fast", 1)
    )
    for (_, configs, settings), part in zip(asked, ours.PROMPTS, strict=True):
        assert configs[1].stem == "fast"
        assert settings == {**ours.COMMON, **ours.PROMPTS[part], "rank": 2, "image_size": 28}


def test_full_fine_tuning_is_measured_as_it_was_trained(cohort, tmp_path, monkeypatch):
    settings = {"neighbours": True, "tokens": True, "image_size": 56, "layers": "late"}
    job = Job(cohort.training[:1], LABELS, 0.1, 0, tmp_path, 1, settings)
    ours.train_full(job)
    monkeypatch.setattr(ours, "sam_segmenter", lambda network: network)
    network = ours.load_full(job)
    assert (network.neighbours, network.tokens, network.image_size) == (True, (1, 2), 56)


def test_the_lines_to_reach_are_measured_on_the_stored_slices(data_dir):
    for name, bound in (("hippocampus_box", 0.88), ("ultrasound_box", 0.87)):
        target = TARGETS[name]
        assert target.at_least == {"jittered_box": bound}
        assert all(entry.get("axis", 2) == 2 for entry in load_cohort(target.cohort).test)
    by_parts = TARGETS["ultrasound_parts"]
    assert {**TARGETS["ultrasound_box"].settings, "parts": True} == by_parts.settings
    plan = learning.Plan(load_cohort("ultrasound"), [48], ["base"], 20, data_dir, settings=by_parts.settings)
    assert plan.rules(learning.METHODS["base"]).parts  # the base gets the same boxes
    assert all(entry["axis"] == 1 for entry in load_cohort(TARGETS["hippocampus_box_coronal"].cohort).test)


def test_a_method_without_prompts_runs_where_it_is_named_and_is_measured_by_what_it_can(cohort, tmp_path):
    assert "unet3d" not in learning.checked_methods(None)
    assert learning.checked_methods("unet3d,base") == ["base", "unet3d"]
    methods = Recorder(fast=1).methods
    methods["unet3d"] = dataclasses.replace(METHODS["unet3d"], load=lambda _: shifted(2))
    plan = plan_of(cohort, tmp_path / "work", methods)
    assert plan.rules(methods["unet3d"]).protocols == ("automatic",)
    assert plan.rules(methods["fast"]).protocols == ("jittered_box", "automatic")
    figures = learning.run_plan(dataclasses.replace(plan, minutes=0.02, cases=[1]), methods)
    found = figures["differences"]["1"]["unet3d"]
    assert (found["jittered_box"], found["automatic"]["ahead"]) == (None, "second")
    (row,) = [line for line in table(figures).splitlines() if line.startswith("| MONAI 3D U-Net")]
    assert row.split(" | ")[1] == ""


def test_a_network_of_volumes_answers_voxel_by_voxel_whatever_the_volumes_sides():
    class Bright(torch.nn.Module):
        def forward(self, volume):
            return torch.cat([volume * 0, volume], 1)

    image = np.zeros((5, 11, 8), np.uint8)
    image[1:4, 3:6, 0:4] = 200
    rules = EvaluationRules(["automatic"])
    truth = CaseTruth(case_of((image > 0).astype(np.uint8), image), {1: "block"}, rules)
    answer = unet3d.VolumeSegmenter(Bright(), [1], [4, 9, 9])(truth, rules)["automatic"]
    for k in range(1, 4):
        assert np.array_equal(answer.masks[1][k], image[k] > 0)


def test_a_network_of_volumes_learns_them(cohort, tmp_path, monkeypatch):
    """By steps and not by time, so that a slow machine learns as much."""

    def train_steps(_, batches, optimizer, loss_of, slices):
        for _ in range(60):
            optimizer.zero_grad()
            loss_of(next(batches)).backward()
            optimizer.step()
        return {"seconds": 1.0, "slices": 60 * slices}

    monkeypatch.setattr(unet3d, "train_for", train_steps)
    job = Job(cohort.training[:1], LABELS, 6, 0, tmp_path)
    assert unet3d.train(job)["slices"] == 60 * 2 * 4  # two volumes of four slices a step
    rules = EvaluationRules(["automatic"], min_pixels=1, max_clicks=0)
    measured = measure(unet3d.load(job), cohort.training[:1], LABELS, rules)
    assert figure_of(measured, "automatic")["value"] > 0.6


@pytest.mark.soak
def test_every_method_trains_and_is_measured_on_toy_cases(cohort, tmp_path):
    small = Cohort(cohort.training[:1], cohort.validation[:1], cohort.test[:2], LABELS, 1)
    plan = learning.Plan(small, [1], list(METHODS), 2 / 60, tmp_path, every=4)
    figures = learning.run_plan(plan, METHODS)
    for name, run in figures["runs"]["1"].items():
        protocol = "jittered_box" if METHODS[name].prompted else "automatic"
        assert 0 <= figure_of(run["test"], protocol)["value"] <= 1, name
        assert run["training"]["slices"] > 0 or name == "base"
    assert all(
        "automatic" in figures["runs"]["1"][name]["test"]["summary"] for name in ("fast", "accurate", "decoder", "unet")
    )


def test_a_job_is_given_the_first_cases(cohort, tmp_path):
    job = plan_of(cohort, tmp_path, ["fast"], settings={"learning_rate": 1}).job("fast", 2)
    assert job == Job(cohort.training[:2], LABELS, 30.0, 0, tmp_path / "2" / "fast", 1, {"learning_rate": 1}, ())
