"""Which strategy chooses the cases that teach most: a simulated annotator, who labels what he is shown."""

from __future__ import annotations

import json as jsons
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.cohorts import Cohort, Entry, load_cohort
from benchmarks.curves import write_page
from benchmarks.measuring import measure
from benchmarks.peers.job import Job
from benchmarks.peers.ours import ADAPTER, CONFIGS, run_folder, train_preset
from sam_lora.build import build_sam_lora
from sam_lora.cache import TensorCache
from sam_lora.cases import read_case
from sam_lora.datasets import three_channels
from sam_lora.embedding import Embedder
from sam_lora.evaluation import EvaluationRules
from sam_lora.evaluation.segmenting import segment_case
from sam_lora.files import writable_folder, write_json
from sam_lora.selection import Seen, by_both, by_diversity, by_uncertainty, look_at
from sam_lora.trunk import TrunkCache
from sam_lora.volumes import Volume
from sam_lora.weights import file_digest, tensors_digest

POOL, COUNTS, EVERY, TRUNK = 30, (1, 3, 6, 12), 3, "trunk"
SETTINGS: dict[str, Any] = {"prompt_mode": "mix", "corrections": 0, "image_size": 128}
PRESET = "decoder"
PROTOCOLS = ("automatic", "jittered_box")
_EMBEDDINGS = TensorCache(2 << 30)
STRATEGIES: dict[str, Callable[[Mapping[str, Seen], list[str], int, np.random.RandomState], list[str]]] = {
    "random": lambda seen, known, n, rng: rng.permutation(sorted(set(seen) - set(known))).tolist()[:n],
    "uncertainty": lambda seen, known, n, _: by_uncertainty({k: v for k, v in seen.items() if k not in known})[:n],
    "diversity": lambda seen, known, n, _: by_diversity(seen, known, n),
    "hybrid": lambda seen, known, n, _: by_both(seen, known, n),
}


def active_learning(
    seconds: float = 60,
    seeds: Any = (0, 1, 2),
    strategies: Any = None,
    folder: str = "active_learning",
    write: bool = False,
    json: str | None = None,
) -> None:
    """Let each strategy choose cases from a pool of 30, train on them, and measure on the test cases.

    Hippocampus, from $SAM_LORA_DATA, at 128 px, every third slice looked at and measured. The first case is the same
    for all strategies of a seed. Embeddings of the pool are made before, as a server makes them when an image is looked
    at: a minute of training on twelve cases would see nothing else. What is finished stays in FOLDER: run again, it
    continues.

    Args:
        seconds: of each training.
        seeds: a number or several.
        strategies: names; all by default.
        folder: work folder.
        write: also write the section of bundle/docs/learning.md and its plot.
        json: also write the figures there.
    """
    numbers = [seeds] if isinstance(seeds, int) else list(seeds)
    names = _checked(strategies)
    work = writable_folder(Path(folder), "folder")
    cohort = load_cohort("hippocampus")
    _same_settings(work, cohort, seconds)
    _warm(cohort, work)
    runs = {
        f"{seed}": {name: [_round(cohort, work, seed, name, n, seconds) for n in range(len(COUNTS))] for name in names}
        for seed in numbers
    }
    figures: dict[str, Any] = {"seconds": seconds, "counts": COUNTS, "areas": areas(runs), "runs": runs}
    for name, found in figures["areas"].items():
        print(f"{name:<12}" + "; ".join(f"{protocol} {_said(one)}" for protocol, one in found.items()))
    if write:
        write_page(figures, Path(__file__).parents[2] / "bundle" / "docs")
    if json:
        write_json(Path(json), figures)


def areas(runs: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> dict[str, Any]:
    """Mean Dice over the rounds, and how far it lies from that of ``random``, with 95 % intervals over seeds and cases.

    Args:
        runs: seed -> strategy -> rounds with ``dice``: protocol -> case -> Dice.

    Returns:
        Strategy -> protocol -> ``{"area", "interval", "difference", "difference_interval"}``; the last two are None
        for ``random`` and without it.
    """
    result: dict[str, Any] = {}
    names = list(next(iter(runs.values())))
    for name in names:
        result[name] = {}
        for protocol in PROTOCOLS:
            mine = _matrix(runs, name, protocol)
            one: dict[str, Any] = {"area": float(mine.mean()), "interval": _interval(mine),
                                   "difference": None, "difference_interval": None}  # fmt: skip
            if name != "random" and "random" in names:
                gained = mine - _matrix(runs, "random", protocol)
                one |= {"difference": float(gained.mean()), "difference_interval": _interval(gained)}
            result[name][protocol] = one
    return result


def _matrix(runs: Mapping[str, Any], name: str, protocol: str) -> np.ndarray:
    """Mean Dice over the rounds, ``(seeds, cases)``."""
    rounds = [[one["dice"][protocol] for one in strategies[name]] for strategies in runs.values()]
    cases = sorted(rounds[0][0])
    return np.array([[np.mean([dice[case] for dice in one]) for case in cases] for one in rounds])


def _interval(values: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """95 % of the means of drawn seeds and drawn cases."""
    rng = np.random.RandomState(0)
    seeds, cases = values.shape
    means = [values[rng.randint(0, seeds, seeds)][:, rng.randint(0, cases, cases)].mean() for _ in range(draws)]
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


def _said(one: Mapping[str, Any]) -> str:
    text = f"{one['area']:.3f} [{one['interval'][0]:.3f}, {one['interval'][1]:.3f}]"
    if one["difference"] is None:
        return text
    low, high = one["difference_interval"]
    return f"{text}, against random {one['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"


def _round(cohort: Cohort, work: Path, seed: int, name: str, number: int, seconds: float) -> dict[str, Any]:
    """One round: choose, train, measure; from its file where it was finished before."""
    strategy = "shared" if number == 0 else name  # the first case is the same for all
    folder = work / str(seed) / strategy / str(number)
    path = folder / "round.json"
    if path.is_file():
        return dict(jsons.loads(path.read_text(encoding="utf-8")))
    pool = {entry["name"]: entry for entry in cohort.training[:POOL]}
    known: list[str] = []
    if number == 0:
        known = [sorted(pool)[np.random.RandomState(seed).randint(len(pool))]]
    else:
        before = _round(cohort, work, seed, name, number - 1, seconds)
        known = list(before["cases"])
        rng = np.random.RandomState([seed, number])
        looked = _look(work / str(seed) / ("shared" if number == 1 else name) / str(number - 1), pool, cohort, name)
        known += STRATEGIES[name](looked, known, COUNTS[number] - len(known), rng)
    print(f"seed {seed}, {strategy}, {len(known)} cases: {', '.join(known)}", file=sys.stderr, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    job = _job([pool[one] for one in known], cohort, folder, seed, seconds, str(work / TRUNK))
    done = train_preset(PRESET, job)
    rules = EvaluationRules(PROTOCOLS, min_pixels=cohort.min_pixels, every=EVERY, max_clicks=0)
    found = measure(partial(segment_case, _embedder(job)), cohort.test, cohort.labels, rules)
    dice: dict[str, dict[str, float]] = {protocol: {} for protocol in PROTOCOLS}
    for protocol in PROTOCOLS:
        for case in {row["case"] for row in found["rows"]}:
            rows = [row for row in found["rows"] if row["case"] == case and row["protocol"] == protocol]
            key = "dice" if protocol == "automatic" else "mean_slice_dice"
            dice[protocol][case] = float(np.mean([row[key] for row in rows if row[key] is not None]))
    write_json(path, {"cases": known, "dice": dice, "slices": done["slices"], "seconds": done["seconds"]})
    return dict(jsons.loads(path.read_text(encoding="utf-8")))


def _look(folder: Path, pool: Mapping[str, Entry], cohort: Cohort, strategy: str) -> dict[str, Seen]:
    """What the network of a round makes of each case of the pool; kept, because several strategies ask after the first."""
    if strategy == "random":
        return dict.fromkeys(pool, Seen(None, np.zeros(1, np.float32)))  # it does not ask
    doubts = strategy != "diversity"  # which asks for embeddings alone
    path = folder / ("seen.json" if doubts else "features.json")
    if not path.is_file():
        embedder = _embedder(_job([], cohort, folder, 0, 1, ""))
        rows = {}
        for name, entry in pool.items():
            array = np.moveaxis(read_case(entry).image, (0, 1, 2), (2, 1, 0))
            volume, mirrored = Volume(array), Volume(array[::-1].copy())
            tokens = range(len(embedder.network.tokens) if doubts else 0)
            with torch.inference_mode():
                seen = look_at(embedder, volume, tokens, -(-len(volume) // EVERY), mirrored)
            rows[name] = {"uncertainty": seen.uncertainty, "features": seen.features.tolist()}
        write_json(path, rows)
    rows = jsons.loads(path.read_text(encoding="utf-8"))
    return {name: Seen(one["uncertainty"], np.array(one["features"], np.float32)) for name, one in rows.items()}


def _embedder(job: Job) -> Embedder:
    """What a job trained; embeddings are shared by all trainings that left the encoder alone."""
    network = build_sam_lora(adapter=str(run_folder(job) / ADAPTER)).merged()
    return Embedder(network, _EMBEDDINGS, digest=tensors_digest(network.image_encoder.state_dict()))


def _job(entries: list[Entry], cohort: Cohort, folder: Path, seed: int, seconds: float, trunk: str) -> Job:
    settings = {**SETTINGS, "trunk_cache": trunk}
    return Job(entries, cohort.labels, seconds, seed, folder, cohort.min_pixels, settings)


def _warm(cohort: Cohort, work: Path) -> None:
    """Keep the embedding of each slice of the pool, for all trainings."""
    network = build_sam_lora(layers=[], decoder="full", image_size=SETTINGS["image_size"])
    trunk = TrunkCache(network, folder=work / TRUNK)
    for entry in tqdm(cohort.training[:POOL], desc="embedding", unit="case"):
        image = read_case(entry).image
        for k in range(len(image)):
            trunk(torch.from_numpy(three_channels(image, k, neighbours=False).astype(np.float32))[None])


def _checked(strategies: Any) -> list[str]:
    names = list(STRATEGIES) if strategies is None else (
        strategies.split(",") if isinstance(strategies, str) else list(strategies)
    )  # fmt: skip
    for name in names:
        if name not in STRATEGIES:
            raise ValueError(f"strategies must be out of {', '.join(STRATEGIES)}, got {name!r}.")
    return [name for name in STRATEGIES if name in names]


def _same_settings(work: Path, cohort: Cohort, seconds: float) -> None:
    """Refuse to continue a folder under other settings; ValueError names the first that differs."""
    now = {"seconds": seconds, "threads": torch.get_num_threads(), "settings": repr([PRESET, SETTINGS, COUNTS, EVERY]),
           "cases": [entry["name"] for entry in [*cohort.training[:POOL], *cohort.test]],
           "configs": {path.name: file_digest(path, "sha256") for path in sorted(CONFIGS.glob("*.json"))}}  # fmt: skip
    path = work / "settings.json"
    if not path.is_file():
        write_json(path, now)
    before = jsons.loads(path.read_text(encoding="utf-8"))
    for name, value in now.items():
        if before.get(name) != value:
            raise ValueError(
                f"{work} was begun with {name} {before.get(name)}, now it is {value}: use another --folder."
            )
