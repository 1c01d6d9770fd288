"""From a saved label to a better adapter: five cases saved on the running server, a training, the swap, and what it brought."""

from __future__ import annotations

import json as jsons
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import requests

from benchmarks.cohorts import Entry, load_cohort
from benchmarks.measuring import STATISTICS
from benchmarks.serve import served_studies
from monailabel_app.lib.trainers.settings import MINUTES, SLICES
from sam_lora.build import build_sam_lora
from sam_lora.cases import read_case
from sam_lora.embedding import Embedder
from sam_lora.evaluation import EvaluationRules, evaluate_case
from sam_lora.evaluation.summary import summarize
from sam_lora.files import write_json
from sam_lora.networks import Sam

SAVED, STEP = 5, 10  # of the 50 training cases every tenth is labelled: five sizes of hippocampus
RULES = EvaluationRules(("jittered_box",), min_pixels=10, every=3, max_clicks=0)
AUTOMATIC = EvaluationRules(("automatic",), min_pixels=10, every=3)


def loop(
    minutes: float = MINUTES,
    slices: int = SLICES,
    preset: str = "fast",
    start: str = "base",
    sabotaged: int = 2,
    json: str | None = None,
) -> None:
    """Save five hippocampus labels on the server, train twice (cold, warm), and test the second adapter on 20 cases.

    Then spoil the labels that are trained on, each moved by its own width or inverted, and train again: the champion
    must stay, its answers the same bit for bit. At last train on the good labels again, from the same champion, and on
    those of one case more.

    Args:
        minutes: each training ends after them,
        slices: or after so many; 0: by time alone.
        preset: of each training.
        start: what the trainings on spoilt labels, and those after them, start from: base or champion.
        sabotaged: trainings on spoilt labels, 0 to 2: the second one inverts the other half of them.
        json: also write the figures there.

    Raises:
        ValueError: if there would be more of them.
    """
    if sabotaged not in range(3):
        raise ValueError(f"sabotaged must be 0, 1 or 2, got {sabotaged!r}.")
    cohort = load_cohort("hippocampus")
    *labelled, further = (*cohort.training[::STEP][:SAVED], cohort.training[STEP // 2])
    names = list(cohort.labels.values())
    with tempfile.TemporaryDirectory() as folder:
        studies = Path(folder) / "studies"
        studies.mkdir()
        for entry in (*labelled, further):
            (studies / Path(entry["image"]).name).write_bytes(Path(entry["image"]).read_bytes())
        with served_studies(studies, "--labels", ",".join(names)) as url:
            for entry in labelled:
                _save(url, entry, names)
            print(f"before: {_ask(url, labelled[0])['adapter']}")
            request = {"preset": preset, "minutes": minutes, "slices": slices}
            figures: dict[str, Any] = {
                kind: _train_timed(kind, url, labelled[0], {**request, "start": "base"}) for kind in ("cold", "warm")
            }
            last = _ask(url, labelled[0])
            print(f"now: {last['adapter']} {last['adapter_digest']}")
            request["start"] = start
            if sabotaged:
                figures["sabotaged"] = [
                    _train_on_spoilt(n, url, labelled, names, Path(folder), request) for n in range(sabotaged)
                ]
                for entry in labelled:
                    _save(url, entry, names)
                figures["good"] = _train_and_say("good labels", url, labelled[0], request)
            _save(url, further, names)
            figures["one more"] = _train_and_say("one case more", url, labelled[0], request)
        path = studies / ".sam_lora" / "adapters" / f"{last['adapter']}.safetensors"
        adapter = str(path) if path.is_file() else None
        for name, network in (("trained", build_sam_lora(adapter=adapter)), ("base", build_sam_lora())):
            figures[name] = _accuracy(network.merged(), cohort.test, cohort.labels)
            print(f"{name}: " + ", ".join(f"{protocol} {value:.3f}" for protocol, value in figures[name].items()))
    if json:
        write_json(Path(json), figures)


def _save(url: str, entry: Entry, names: Sequence[str]) -> None:
    """Save a case's label as 3D Slicer does."""
    info = {"label_info": [{"name": name, "idx": place} for place, name in enumerate(names, 1)]}
    with Path(entry["label"]).open("rb") as file:
        requests.put(
            f"{url}/datastore/label?image={entry['name']}&tag=final", data={"params": jsons.dumps(info)},
            files={"label": (Path(entry["label"]).name, file)}, timeout=60,
        ).raise_for_status()  # fmt: skip


def _ask(url: str, entry: Entry) -> dict[str, Any]:
    """A click's answer, without its mask."""
    asked = {"foreground": [[10, 10, 10]], "label": "hippocampus anterior"}
    response = requests.post(
        f"{url}/infer/sam_lora?image={entry['name']}&output=json", data={"params": jsons.dumps(asked)}, timeout=60
    )
    response.raise_for_status()
    said = response.json()
    return dict(said.get("params", said))


def _train(url: str, entry: Entry, request: dict[str, Any]) -> dict[str, Any]:
    """Start a training, and wait until a click is answered by what it made, or it is over.

    Raises:
        ValueError: if the training fails.
    """
    before, begun = _champion(url), time.perf_counter()
    requests.post(f"{url}/train/sam_lora", json=request, timeout=60).raise_for_status()
    swapped = None
    while requests.get(f"{url}/train/?check_if_running=true", timeout=60).status_code == 200:
        if swapped is None and _champion(url) != before:
            _ask(url, entry)
            swapped = time.perf_counter() - begun
        time.sleep(0.2)
    total = swapped or time.perf_counter() - begun
    stats = requests.get(f"{url}/info/", timeout=60).json()["train_stats"]["sam_lora"]
    response = requests.get(f"{url}/adapters/{stats['model']}", timeout=60)
    if response.status_code != 200:
        raise ValueError(f"the training failed: {stats.get('why') or response.text}")
    pedigree = response.json()
    seconds = pedigree["seconds"]
    return {"total": total, "seconds": {**seconds, "start and swap": total - sum(seconds.values())}, "why": stats["why"],
            "scores": {p: {k: v for k, v in one.items() if k != "pairs"} for p, one in pedigree["scores"].items()}}  # fmt: skip


def _champion(url: str) -> str:
    return str(requests.get(f"{url}/adapters/", timeout=60).json()["champion"])


def _train_timed(kind: str, url: str, entry: Entry, request: dict[str, Any]) -> dict[str, Any]:
    """Train, and print the seconds of each part; gives what :func:`_train` does."""
    done = _train(url, entry, request)
    said = ", ".join(f"{part} {seconds:.1f}" for part, seconds in done["seconds"].items())
    print(f"{kind}: {done['total']:.1f} s from the request to the swap ({said}); {done['why']}")
    return done


def _train_and_say(what: str, url: str, entry: Entry, request: dict[str, Any]) -> str:
    """Train, and print whether the champion stayed, with its answer; gives why."""
    champion, before = _champion(url), _mask(url, entry)
    done = _train(url, entry, request)
    kept = _champion(url) == champion and _mask(url, entry) == before
    stays = "the champion stays, its answer the same" if kept else "promoted"
    print(f"{what}: {done['total']:.1f} s, {stays}; {done['why']}")
    return str(done["why"])


def _train_on_spoilt(
    n: int, url: str, labelled: Sequence[Entry], names: Sequence[str], folder: Path, request: dict[str, Any]
) -> str:
    """Train on labels of which every other one is inverted and the rest moved, by n which ones; gives what came of it."""
    trained_on = [entry for place, entry in enumerate(labelled) if place != 1]  # the second patient is held out
    for place, entry in enumerate(trained_on):
        _save(url, _spoilt(entry, (place + n) % 2 == 1, folder), names)
    return _train_and_say("spoilt labels", url, labelled[0], request)


def _spoilt(entry: Entry, inverted: bool, folder: Path) -> Entry:
    """The case with its label inverted, or moved."""
    label = nibabel.load(entry["label"])
    array = np.asanyarray(label.dataobj)
    spoilt = np.where(array == 0, 1, 0) if inverted else _moved(array)
    path = folder / Path(entry["label"]).name
    nibabel.save(nibabel.Nifti1Image(spoilt.astype(np.uint8), label.affine), path)
    return {**entry, "label": str(path)}


def _moved(array: np.ndarray) -> np.ndarray:
    """A label map moved by its own width along its first axis, inside its volume."""
    found = np.nonzero(array.any((1, 2)))[0]
    width = int(found[-1] - found[0]) + 1
    step = min(width, len(array) - 1 - int(found[-1])) or -min(width, int(found[0]))
    return np.roll(array, step, 0)


def _mask(url: str, entry: Entry) -> bytes:
    """The mask of a box, as it comes over the wire."""
    asked = {"roi": [8, 25, 10, 30, 15, 15], "label": "hippocampus anterior", "result_extension": ".nrrd"}
    response = requests.post(
        f"{url}/infer/sam_lora?image={entry['name']}&output=image", data={"params": jsons.dumps(asked)}, timeout=60
    )
    response.raise_for_status()
    return bytes(response.content)


def _accuracy(network: Sam, entries: Sequence[Entry], labels: dict[int, str]) -> dict[str, float]:
    """Mean Dice on unseen cases: of each object from a jittered box, and of each label's volume without a prompt."""
    embedder, rows = Embedder(network), []
    for entry in entries:
        case = read_case(entry)
        rows += evaluate_case(embedder, case, labels, RULES, entry["patient"]).rows
        if network.tokens:
            rows += evaluate_case(embedder, case, labels, AUTOMATIC, entry["patient"]).rows
    return {protocol: part["all"][STATISTICS[protocol]]["value"] for protocol, part in summarize(rows).items()}
