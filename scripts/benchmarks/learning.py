"""What is learned from few cases in a few minutes, by our presets and by what one would use instead."""

from __future__ import annotations

import json as jsons
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.cohorts import Cohort, load_cohort
from benchmarks.learning_page import table, write_page
from benchmarks.measuring import STATISTICS, difference, figure_of, measure
from benchmarks.peers.job import Job, Method
from benchmarks.peers.ours import COMMON, CONFIGS, FULL, FULL_RATE, PROMPTS
from benchmarks.peers.table import METHODS
from benchmarks.target_lines import against_accurate, target_lines
from benchmarks.targets import look_up_target
from sam_lora.evaluation import EvaluationRules
from sam_lora.evaluation.summary import jsonable
from sam_lora.files import writable_folder, write_json
from sam_lora.weights import file_digest

RESULTS = "learning.json"


@dataclass(frozen=True)
class Plan:
    """What is run.

    Args:
        cohort: the images and their split.
        cases: how many training cases, each count anew.
        methods: names of :data:`METHODS`.
        minutes: of each training.
        folder: where everything finished is kept; a plan that is run again continues there.
        seed: of everything that is drawn.
        every: measure every n-th slice.
        protocols: what is measured; "automatic" of those methods that can.
        settings: what differs from the methods' own settings.
        validate: follow trainings on the validation cases, out of their own time.
    """

    cohort: Cohort
    cases: Sequence[int]
    methods: Sequence[str]
    minutes: float
    folder: Path
    seed: int = 0
    every: int = 3
    protocols: Sequence[str] = ("jittered_box", "automatic")
    settings: Mapping[str, Any] | None = None
    validate: bool = False

    def job(self, name: str, count: int) -> Job:
        """The training of a method on the first ``count`` cases; the base learns from none and is measured once."""
        count = min(self.cases) if name == "base" else count
        folder = self.folder / f"{count}" / name
        folder.mkdir(parents=True, exist_ok=True)
        validation = self.cohort.validation if self.validate else ()
        return Job(self.cohort.training[:count], self.cohort.labels, self.minutes * 60, self.seed, folder,
                   self.cohort.min_pixels, dict(self.settings or {}), validation)  # fmt: skip

    def rules(self, method: Method) -> EvaluationRules:
        """How a method is measured."""
        protocols = [p for p in self.protocols if (method.automatic if p == "automatic" else method.prompted)]
        parts = bool((self.settings or {}).get("parts", False))
        return EvaluationRules(
            protocols, min_pixels=self.cohort.min_pixels, every=self.every, max_clicks=0, parts=parts
        )


def learning(  # noqa: PLR0913  each argument is an option of the command
    minutes: float = 3,
    cases: Any = (1, 3, 10),
    methods: Any = None,
    folder: str = "learning",
    target: str | None = None,
    every: int = 3,
    settings: Any = None,
    validation_only: bool = False,
    write: bool = False,
    json: str | None = None,
) -> None:
    """Train ours and its peers on the same few cases for the same time; show Dice on the test cases, with differences.

    Hippocampus, from $SAM_LORA_DATA. What is finished stays in FOLDER: run again, it continues.

    Args:
        minutes: of each training.
        cases: how many training cases, a number or several.
        methods: a name or several; by default all that take boxes.
        folder: work folder.
        target: run this line of benchmarks/targets.py instead, by its own settings.
        every: measure every n-th slice.
        settings: what differs from the methods' own settings, as a dictionary.
        validation_only: stop before the test cases are read; to choose settings.
        write: also write bundle/docs/learning.md and its plot.
        json: also write the figures there.
    """
    if target is not None:
        if validation_only or write or methods is not None or settings is not None:
            raise ValueError(
                "target runs by its own settings: leave --validation_only, --write, --methods and --settings out."
            )
        figures = run_target(target, Path(folder))
    else:
        if not minutes > 0:
            raise ValueError(f"minutes must be a number above 0, got {minutes!r}.")
        if settings is not None and not isinstance(settings, Mapping):
            raise ValueError(f"settings must be a dictionary, like \"{{'rank': 8}}\", got {settings!r}.")
        counts, names, cohort = checked_cases(cases), checked_methods(methods), load_cohort("hippocampus")
        plan = Plan(cohort, counts, names, minutes, writable_folder(Path(folder), "folder"), every=every,
                    settings=settings)  # fmt: skip
        figures = run_plan(plan, METHODS, validation_only)
        print(table(figures))
        if write:
            write_page(figures, Path(__file__).parents[2] / "bundle" / "docs")
    if json:
        write_json(Path(json), figures)


def checked_cases(cases: Any) -> list[int]:
    """Numbers of cases in ascending order; ValueError where one is none."""
    counts = [cases] if isinstance(cases, int) else list(cases)
    if not counts or not all(type(n) is int and 1 <= n <= 50 for n in counts):
        raise ValueError(f"cases must be whole numbers from 1 to 50, got {cases!r}.")
    return sorted(set(counts))


def checked_methods(methods: Any) -> list[str]:
    """Names of methods in the order of their table; ValueError lists them where one is unknown."""
    usual = [name for name, method in METHODS.items() if method.prompted]
    given = usual if methods is None else methods.split(",") if isinstance(methods, str) else list(methods)
    for name in given:
        if name not in METHODS:
            raise ValueError(f"methods must be out of {', '.join(METHODS)}, got {name!r}.")
    return [name for name in METHODS if name in given]


def run_plan(plan: Plan, methods: Mapping[str, Method], validation_only: bool = False) -> dict[str, Any]:
    """Train all, choose the preset on the validation cases, and only then measure on the test cases.

    Validation cases are measured for the presets, or for all methods with ``validation_only``.

    Returns:
        ``{"settings", "runs": {count: {name: {"title", "training", "validation", "test"}}}, "chosen": {count: name},
        "differences": {count: {name: {protocol: difference}}}}``; also in the folder's ``learning.json``.

    Raises:
        ValueError: if objects are to be asked for by parts, and a method knows whole ones only.
    """
    whole = [name for name in plan.methods if not methods[name].by_parts]
    if (plan.settings or {}).get("parts") and whole:
        raise ValueError(
            f"settings have parts, by which {', '.join(whole)} cannot be trained: leave them out of methods."
        )
    _same_settings(plan)
    runs: dict[str, dict[str, Any]] = {}
    chosen: dict[str, str] = {}
    for count in plan.cases:
        runs[str(count)] = {
            name: _train(plan, name, methods[name], count, methods[name].ours or validation_only)
            for name in plan.methods
        }
        ours = {name: run for name, run in runs[str(count)].items() if methods[name].ours}
        if ours:
            chosen[str(count)] = max(ours, key=lambda name: _validation_dice(ours[name]))
    figures: dict[str, Any] = {"settings": _settings(plan), "runs": runs, "chosen": chosen, "differences": {}}
    if not validation_only:
        for count in plan.cases:
            for name in plan.methods:
                runs[str(count)][name]["test"] = _test(plan, name, methods[name], count)
        figures["differences"] = jsonable({count: _differences(runs[count], name) for count, name in chosen.items()})
    write_json(plan.folder / RESULTS, figures)
    return figures


def _once(path: Path, do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``do`` gives, from its file where it was finished before."""
    if not path.is_file():
        write_json(path, do())
    return dict(jsons.loads(path.read_text(encoding="utf-8")))


def _train(plan: Plan, name: str, method: Method, count: int, validated: bool) -> dict[str, Any]:
    job = plan.job(name, count)

    def train() -> dict[str, Any]:
        print(f"{method.title}: {count} cases, {plan.minutes:g} minutes", file=sys.stderr, flush=True)
        before = time.process_time()
        done = method.train(job)
        return {**done, "cpu_seconds": time.process_time() - before}

    training = _once(job.folder / "training.json", train)
    run = {"title": method.title, "training": training}
    if validated:
        run["validation"] = _once(
            job.folder / "validation.json", lambda: _measure(plan, method, job, plan.cohort.validation)
        )
    return run


def _test(plan: Plan, name: str, method: Method, count: int) -> dict[str, Any]:
    job = plan.job(name, count)
    return _once(job.folder / "test.json", lambda: _measure(plan, method, job, plan.cohort.test))


def _measure(plan: Plan, method: Method, job: Job, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    print(f"{method.title}: measuring {len(entries)} cases", file=sys.stderr, flush=True)
    return measure(method.load(job), entries, plan.cohort.labels, plan.rules(method))


def _validation_dice(run: Mapping[str, Any]) -> float:
    protocol = run["validation"]["rules"]["protocols"][0]
    found = figure_of(run["validation"], protocol)
    return -1.0 if found is None or found["value"] is None else float(found["value"])


def _differences(runs: Mapping[str, Any], chosen: str) -> dict[str, Any]:
    """Of the chosen preset against every other method, by protocol."""
    ours = runs[chosen]["test"]
    return {
        name: {protocol: difference(ours, run["test"], protocol) for protocol in STATISTICS}
        for name, run in runs.items()
        if name != chosen
    }


def _settings(plan: Plan) -> dict[str, Any]:
    return {
        "minutes": plan.minutes,
        "seed": plan.seed,
        "every": plan.every,
        "settings": dict(plan.settings or {}),
        "protocols": list(plan.protocols),
        "min_pixels": plan.cohort.min_pixels,
        "validate": plan.validate,
        "cases": [
            entry["name"] for part in (plan.cohort.training, plan.cohort.validation, plan.cohort.test) for entry in part
        ],
        "configs": {path.name: file_digest(path, "sha256") for path in sorted(CONFIGS.glob("*.json"))},
        "presets": repr([COMMON, PROMPTS, FULL, FULL_RATE]),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }


def _same_settings(plan: Plan) -> None:
    """Refuse to continue a folder under other settings; ValueError names the first that differs."""
    path, now = plan.folder / "settings.json", jsons.loads(jsons.dumps(_settings(plan)))
    before = _once(path, lambda: now)
    for name, value in now.items():
        if before.get(name) != value:
            raise ValueError(
                f"{plan.folder} was begun with {name} {before.get(name)}, now it is {value}: use another --folder."
            )


def run_target(name: str, folder: Path) -> dict[str, Any]:
    """Run one line of the table of targets and print what it reached.

    Raises:
        ValueError: if there is no such target, or its images are not there.
    """
    target = look_up_target(name)
    cohort = load_cohort(target.cohort)
    count = target.cases or len(cohort.training)
    plan = Plan(cohort, [count], target.methods, target.minutes, writable_folder(folder / name, "folder"),
                every=target.every, protocols=target.protocols, settings=target.settings,
                validate=target.validate)  # fmt: skip
    figures = run_plan(plan, METHODS)
    runs = figures["runs"][str(count)]
    for method, run in runs.items():
        print("\n".join(target_lines(target, method, run)))
    print("\n".join(against_accurate(runs, target.protocols[0])))
    return figures
