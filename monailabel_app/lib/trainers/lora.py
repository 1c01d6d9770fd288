"""Training on saved labels, by the bundle's own config, in the process that MONAI Label starts for it.

What comes out is a challenger: it serves only if it is not worse than the champion on the held-out cases.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from monai.bundle import run as run_bundle
from monailabel.interfaces.tasks.train import TrainTask

from monailabel_app.lib.adapters import Adapters, Served
from monailabel_app.lib.clock import Clock
from monailabel_app.lib.datastores.local import StudiesFolder
from monailabel_app.lib.trainers.cases import TrainingCases
from monailabel_app.lib.trainers.parents import choose_parent
from monailabel_app.lib.trainers.progress import SETTINGS, latest_progress
from monailabel_app.lib.trainers.settings import SLICES, TrainingError, options, read_settings
from sam_lora import __version__
from sam_lora.build import build_sam_lora
from sam_lora.cli import causes, sentence_of
from sam_lora.files import read_json, write_json
from sam_lora.promotion import MARGIN, Verdict, judge
from sam_lora.registry import BASE, RegistryError
from sam_lora.trunk import forget_oldest
from sam_lora.weights import file_digest

logger = logging.getLogger(__name__)

CONFIGS = Path(__file__).resolve().parents[3] / "bundle" / "configs"
_LATEST = "runs/train-*/adapter_latest.safetensors"
TRUNK_BYTES = 8 << 30  # on the disk; the least recently written go first
_JUDGED = 60  # slices of the hold-out that a challenger is judged on, about


class LoraTraining(TrainTask):
    """Trains an adapter on the labels that people saved, judges it on the hold-out, and promotes it if it is not worse.

    Args:
        adapters: the registry it joins, and what serves now.
        names: gives value -> name of what is annotated.
        folder: of the studies' own records; each training keeps its cases, settings and history in one of its own here.
        margin: see :func:`sam_lora.promotion.judge`.
    """

    def __init__(
        self, adapters: Adapters, names: Callable[[], Mapping[int, str]], folder: Path, margin: float = MARGIN
    ) -> None:
        super().__init__("SAM-LoRA: a small adapter from the labels that were saved here.")
        self.adapters, self.names, self.folder, self.margin = adapters, names, folder, margin
        self.preset, self.slices = ("fast", SLICES) if adapters.device == "cpu" else ("accurate", 0)
        self.trunk = folder.parent / "trunk"

    def config(self) -> dict[str, Any]:
        """The options that a client may set."""
        return options(self.preset, self.slices)

    def check(self, request: Mapping[str, Any], datastore: StudiesFolder) -> dict[str, Any]:
        """Read a request before anything is started, see :func:`read_settings`.

        Raises:
            ValueError: if a setting cannot be used, or no label is there to train on.
        """
        settings = read_settings(request, self.preset, self.slices)
        if not TrainingCases(datastore, self.names()).images():
            raise TrainingError(
                "There is no label to train on: save at least one (the second patient, and every fifth after it, is "
                "held out to judge by)."
            )
        return settings

    def stats(self) -> dict[str, Any]:
        """Of the latest training, as clients show it: epochs done, about how many there will be, time, best Dice.

        ``best_metric`` is the challenger's Dice from a jittered box on the held-out cases, 0 before it is judged.
        """
        return latest_progress(self.folder)

    def __call__(self, request: Mapping[str, Any], datastore: StudiesFolder) -> dict[str, Any]:
        """Train, judge, and keep the adapter under a name that is its time.

        Raises:
            ValueError: see :meth:`check`; if a label cannot be used, its sentence names it; if the device has too
                little memory. The champion stays in each of these cases.
        """
        clock, requested = Clock(), time.time()
        settings = self.check(request, datastore)
        run = self._new_run()
        settings |= {"name": run.name, "device": self.adapters.device, "requested": requested, "parent": None,
                     "training_cases": 0, "held_out_cases": 0}  # fmt: skip
        write_json(run / SETTINGS, settings)
        try:
            return self._train_and_judge(run, settings, datastore, clock)
        except Exception as error:  # whoever looks at the training is told why
            why = str(error) or type(error).__name__
            write_json(run / "verdict.json", {"promoted": False, "why": why, "scores": {}})
            raise

    def _train_and_judge(
        self, run: Path, settings: dict[str, Any], datastore: StudiesFolder, clock: Clock
    ) -> dict[str, Any]:
        cases = TrainingCases(datastore, self.names())
        training, held_out = cases.write(run, settings["axis"])
        parent, registry = self.parent(settings), self.adapters.registry
        parent_digest = "" if parent == BASE else file_digest(registry.path(parent), "sha256")
        settings |= {"parent": parent, "training_cases": len(training), "held_out_cases": len(held_out)}
        write_json(run / SETTINGS, settings)
        clock.mark("cases")
        adapter, champion, verdict = self._challenger(run, settings, cases, held_out, clock)
        seconds = {name: round(value, 2) for name, value in clock.seconds.items()}
        pedigree = {
            "parent": parent, "parent_digest": parent_digest,
            "cases": cases.described(training), "held_out": cases.described(held_out), "settings": settings,
            "scores": verdict.scores, "why": verdict.why, "code_version": __version__, "seconds": seconds,
        }  # fmt: skip
        registry.add(adapter, run.name, pedigree)
        if verdict.promoted:
            try:
                registry.promote(run.name, verdict.why, over=champion)
            except RegistryError as error:  # somebody promoted or rolled back while it was judged
                verdict = replace(verdict, promoted=False, why=str(error))
        write_json(run / "verdict.json", {"promoted": verdict.promoted, "why": verdict.why, "scores": verdict.scores})
        logger.info("%s is %s. %s", run.name, "promoted" if verdict.promoted else "not promoted", verdict.why)
        return {"adapter": run.name, **self.stats(), "seconds": seconds}

    def _challenger(
        self, run: Path, settings: Mapping[str, Any], cases: TrainingCases, held_out: Sequence[Mapping[str, Any]],
        clock: Clock,
    ) -> tuple[Path, str, Verdict]:  # fmt: skip
        """The trained adapter, the name of the champion while it was judged, and what came of it."""
        try:
            self._train(run, settings, cases)
            clock.mark("training")
            adapter, champion = sorted(run.glob(_LATEST))[-1], self.adapters.registry.champion()
            verdict = self._judge(self.adapters.get(), adapter, held_out)
            clock.mark("judging")
        except RuntimeError as error:  # out of memory; or MONAI's parser, around whatever its config raised
            if any(isinstance(cause, torch.OutOfMemoryError) for cause in causes(error)):
                raise TrainingError(
                    f"{self.adapters.device} has too little memory for this training, the champion stays: choose a "
                    f"smaller image_size, or the preset decoder."
                ) from error
            sentence = sentence_of(error)
            if sentence is None:
                raise
            raise TrainingError(sentence) from error
        return adapter, champion, verdict

    def _new_run(self) -> Path:
        name = number = f"{datetime.now(timezone.utc):%Y%m%d-%H%M%S}"  # what is latest is latest when clocks go back
        count = 1
        while (self.folder / number).exists() or number in self.adapters.names():  # two in one second
            count += 1
            number = f"{name}-{count}"
        (self.folder / number).mkdir(parents=True)
        return self.folder / number

    def parent(self, settings: Mapping[str, Any]) -> str:
        """What a training starts from: name of the champion, where it fits what is asked for, else "none"."""
        return choose_parent(self.adapters.registry, settings, self.names())

    def bundle_options(self, run: Path, settings: Mapping[str, Any], cases: TrainingCases) -> dict[str, Any]:
        """What the bundle's training is run with.

        Args:
            run: folder of the training, with its ``datalist.json``.
            settings: see :meth:`check`, and ``parent``.
            cases: all that are trained on.

        Returns:
            ``config_file`` and the overrides of it.
        """
        size = settings["image_size"] or cases.fitting_size(self.adapters.variant, settings["axis"])
        start: dict[str, Any] = {"variant": self.adapters.variant, "image_size": size}
        if settings["parent"] != BASE:
            start = {"adapter": str(self.adapters.registry.path(settings["parent"]))}
        if settings["preset"] != "accurate":
            start["trunk_cache"] = str(self.trunk)
        return {
            "config_file": [str(CONFIGS / "train.json"), str(CONFIGS / f"{settings['preset']}.json")],
            "bundle_root": str(CONFIGS.parent),
            "dataset_dir": str(run),
            "datalist": str(run / "datalist.json"),
            "output_dir": str(run / "runs"),
            "ckpt_dir": str(run / "models"),
            "task_name": "train",
            "minutes": settings["minutes"],
            "slices": settings["slices"] or None,
            "device": self.adapters.device,
            **start,
        }

    def _train(self, run: Path, settings: Mapping[str, Any], cases: TrainingCases) -> None:
        forget_oldest(self.trunk, TRUNK_BYTES)
        run_bundle(
            meta_file=str(CONFIGS / "metadata.json"),
            logging_file=str(CONFIGS / "logging.conf"),
            **self.bundle_options(run, settings, cases),
        )

    def _judge(self, champion: Served, adapter: Path, held_out: Sequence[Mapping[str, Any]]) -> Verdict:
        challenger = build_sam_lora(adapter=str(adapter)).to(self.adapters.device).merged()
        every = max(1, TrainingCases.slices(held_out) // _JUDGED)
        measured = self.folder / "measured.json"  # of the latest judging: the champion's scores are mostly in it
        verdict = judge(
            champion.embedder.network, challenger, held_out, dict(self.names()), self.margin, every,
            lambda done, total: logger.info("judging: %d of %d", done, total),
            _read_measured(measured),
        )  # fmt: skip
        write_json(measured, verdict.measured)
        return verdict


def _read_measured(path: Path) -> dict[str, Any]:
    try:
        return read_json(path) if path.is_file() else {}
    except ValueError:
        logger.warning("%s cannot be read: the champion is measured again.", path)
        return {}
