"""The training loop's memory: adapters as they improve, and a place to continue from after a kill."""

from __future__ import annotations

import logging
import math
import pickle
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events

from sam_lora.adapted import SamLora, report_trainable, write_model
from sam_lora.adapter import Adapter, describe_cases, write_adapter
from sam_lora.datasets import SliceDataset
from sam_lora.files import writable_folder, write_aside, write_json
from sam_lora.optimization import is_step
from sam_lora.plots import plot_history
from sam_lora.progress import loss_of
from sam_lora.runs import CHECKPOINT, refuse_changed_settings, write_provenance
from sam_lora.sampling import SliceSampler

logger = logging.getLogger(__name__)

HISTORY = "history.json"


class TrainingRun:
    """Keeps a run's folder: adapters, history and plot after each epoch, and what is needed to continue after a kill.

    Best is the highest validation Dice where there is a validation set, else the lowest epoch mean of the training
    loss. Attaching loads the checkpoint of a run that is continued. ``engine.state.seconds`` counts the time that was
    spent in training iterations, validation and writing left out, ``engine.state.slices`` what all processes trained on.

    Args:
        folder: of the run, see :func:`sam_lora.runs.run_folder`.
        network: what is trained.
        optimizer: its optimizer.
        dataset: training slices; their digests go into the adapter.
        sampler: is told where to start.
        batch_size: samples per iteration.
        ckpt_dir: the best adapter and its ``model.pt`` also go here, once the run has ended: a run that is killed, or
            still at its beginning, replaces nothing.
        validator: the validation engine, whose ``val_mean_dice`` decides.
        checkpoint_interval: iterations between two checkpoints, rounded up to the end of an optimizer step.
        minutes: training ends after this time, at the end of an optimizer step; without it and ``slices`` by epochs.
        slices: it ends after so many, likewise; of both, what is over first.
        patience: it also ends after this many validations in a row without a new best; 0: never.
        preset: recorded in the adapters.
    """

    def __init__(  # noqa: PLR0913  each argument is a name in the configs
        self,
        folder: str,
        network: SamLora,
        optimizer: torch.optim.Optimizer,
        dataset: SliceDataset,
        sampler: SliceSampler,
        batch_size: int,
        ckpt_dir: str,
        validator: Engine | None = None,
        checkpoint_interval: int = 50,
        minutes: float | None = None,
        slices: int | None = None,
        patience: int = 0,
        preset: str | None = None,
    ) -> None:
        self.minutes, self.slices, self.patience, self.preset = minutes, slices, patience, preset
        self.folder, self.ckpt_dir = Path(folder), writable_folder(Path(ckpt_dir), "ckpt_dir")
        self.network, self.optimizer, self.dataset, self.sampler = network, optimizer, dataset, sampler
        self.batch_size, self.validator, self.interval = batch_size, validator, checkpoint_interval
        self.history: list[dict[str, Any]] = []
        self.losses: list[float] = []  # one per iteration
        self._since = 0.0

    def attach(self, engine: Engine) -> None:
        """Continue where the run was, if it was, and follow the trainer."""
        engine.state.seconds, engine.state.slices = 0.0, 0
        if (self.folder / CHECKPOINT).is_file():
            self._resume(engine)
        if idist.get_rank() == 0:
            write_provenance(self.folder)
            logger.info("%s\n%s", self.folder, report_trainable(self.network))
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_clock)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._after_iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._after_epoch)
        engine.add_event_handler(Events.COMPLETED, self._publish_best)

    def _start_clock(self, _: Engine) -> None:
        self._since = time.perf_counter()

    def _after_iteration(self, engine: Engine) -> None:
        engine.state.seconds += time.perf_counter() - self._since
        if self.minutes is not None:  # all processes go by one clock, or they would not stop together
            engine.state.seconds = float(idist.broadcast(engine.state.seconds))
        loss = loss_of(engine.state.output)
        if not math.isfinite(loss):
            raise ValueError(
                f"The loss became {loss} in iteration {engine.state.iteration}: lower learning_rate. The adapters of "
                f"earlier epochs are in {self.folder}."
            )
        self.losses.append(loss)
        engine.state.slices = self._slices(engine)
        self._after_step(engine)
        self._start_clock(engine)

    def _after_step(self, engine: Engine) -> None:
        """Between two optimizer steps there are gradients no checkpoint holds; the epoch's end is saved by itself."""
        place = (engine.state.iteration - 1) % engine.state.epoch_length + 1
        if not is_step(engine) or place == engine.state.epoch_length:
            return
        if self._is_over(engine):
            engine.terminate_epoch()
        elif place // self.interval > (place - getattr(engine, "accumulation_steps", 1)) // self.interval:
            self._save(engine)

    def _is_over(self, engine: Engine) -> bool:
        return any(limit and done >= limit for _, limit, done in self._ends(engine))

    def _ends(self, engine: Engine) -> list[tuple[str, float | None, float]]:
        return [("minutes", self.minutes, engine.state.seconds / 60), ("slices", self.slices, engine.state.slices)]

    def _slices(self, engine: Engine) -> int:
        """That were trained on; an epoch's last batch may be smaller than the others."""
        (epochs, place), share = divmod(len(self.losses), engine.state.epoch_length), len(self.sampler)
        return (epochs * share + min(place * self.batch_size, share)) * idist.get_world_size()

    def _after_epoch(self, engine: Engine) -> None:
        metrics = {} if self.validator is None else self.validator.state.metrics
        dice = metrics.pop("val_mean_dice", None)
        recent = self.losses[(engine.state.epoch - 1) * engine.state.epoch_length :]
        row = {
            "epoch": engine.state.epoch,
            "loss": sum(recent) / len(recent),
            "val_mean_dice": None if dice is None else float(dice),
            "seconds": round(engine.state.seconds, 1),
            "slices": engine.state.slices,
        }
        is_best = self._is_best(row)
        self.history = [*self.history, row]
        if idist.get_rank() == 0:
            self._write_adapters(row, is_best)
            write_json(self.folder / HISTORY, self.history)
            plot_history(self.history, self.losses, self.folder / "train_loss.png")
        self._save(engine)
        over = self._is_over(engine) or self._is_stuck()
        if idist.broadcast(float(over)):  # the first process decides: others' validation may differ by rounding
            engine.terminate()

    def _is_stuck(self) -> bool:
        values = [r["val_mean_dice"] for r in self.history if r["val_mean_dice"] is not None]
        return 0 < self.patience < len(values) - values.index(max(values)) if values else False

    def _is_best(self, row: Mapping[str, Any]) -> bool:
        if any(r["val_mean_dice"] is not None for r in [*self.history, row]):
            before = [r["val_mean_dice"] for r in self.history if r["val_mean_dice"] is not None]
            return row["val_mean_dice"] is not None and all(row["val_mean_dice"] > value for value in before)
        return all(row["loss"] < r["loss"] for r in self.history)

    def _write_adapters(self, row: Mapping[str, Any], is_best: bool) -> None:
        record = {
            "metrics": dict(row),
            "prompt_mode": self.dataset.prompt_mode,
            **({"preset": self.preset} if self.preset else {}),
            "training_cases": describe_cases(self.dataset.contents),
        }
        adapter = Adapter(self.network.spec, self.network.adapter_tensors(), record)
        write_adapter(self.folder / "adapter_latest.safetensors", adapter)
        if is_best:
            write_model(self.network, self.folder / "model.pt")
            write_adapter(self.folder / "adapter_best.safetensors", adapter)

    def _publish_best(self, _: Engine) -> None:
        if idist.get_rank() != 0:
            return
        for name in ("model.pt", "adapter_best.safetensors"):
            with write_aside(self.ckpt_dir / name) as temporary:
                shutil.copyfile(self.folder / name, temporary)

    def _save(self, engine: Engine) -> None:
        if idist.get_rank() != 0:
            return
        state = {
            "spec": self.network.spec.to_json(),
            "cases": self.dataset.contents,
            "network": self.network.adapter_tensors(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if getattr(engine, "scaler", None) is None else engine.scaler.state_dict(),
            "iteration": engine.state.iteration,
            "history": self.history,
            "losses": self.losses,
            "seconds": engine.state.seconds,
            "epoch_length": engine.state.epoch_length,
            "processes": idist.get_world_size(),
        }
        with write_aside(self.folder / CHECKPOINT) as temporary:
            torch.save(state, temporary)

    def _resume(self, engine: Engine) -> None:
        path = self.folder / CHECKPOINT
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"{path} cannot be read, the run cannot be continued; its adapters are beside it."
            ) from error
        self._refuse_changes(state, path)
        epoch_length, epochs = engine.state.epoch_length, engine.state.max_epochs
        before, now = (state["processes"], state["epoch_length"]), (idist.get_world_size(), epoch_length)
        if before != now:
            raise ValueError(f"{path} was trained by {before[0]} processes with {before[1]} iterations an epoch, now there "
                             f"are {now[0]} with {now[1]}: keep them to resume.")  # fmt: skip
        if state["iteration"] >= epoch_length * epochs:
            raise ValueError(f"{self.folder} has finished its {epochs} epochs: give more `--epochs` to continue.")
        self.history, self.losses = state["history"], state["losses"]
        engine.state.seconds, engine.state.slices = state["seconds"], self._slices(engine)
        for name, limit, done in self._ends(engine):
            if limit and done >= limit:
                raise ValueError(f"{self.folder} has had its {limit} {name}: give more `--{name}` to continue.")
        if self._is_stuck():
            raise ValueError(
                f"{self.folder} ended after {self.patience} validations without a new best: give more `--patience` to continue."
            )
        self.network.load_adapter_tensors(state["network"], path)
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] is not None:
            # The trainer makes its scaler when it starts to run.
            engine.add_event_handler(Events.STARTED, lambda e: e.scaler and e.scaler.load_state_dict(state["scaler"]))
        engine.load_state_dict({"iteration": state["iteration"], "epoch_length": epoch_length, "max_epochs": epochs})
        self.sampler.start = state["iteration"] % epoch_length * self.batch_size
        logger.info("continuing %s after iteration %d of epoch %d",
                    self.folder, state["iteration"] % epoch_length, state["iteration"] // epoch_length + 1)  # fmt: skip

    def _refuse_changes(self, state: Mapping[str, Any], path: Path) -> None:
        refuse_changed_settings(self.folder)
        mine = self.network.spec.to_json()
        for name, value in state["spec"].items():
            if _listed(value) != _listed(mine[name]):
                raise ValueError(f"{path} was trained with {name} {value}, now it is {mine[name]}: keep it to resume.")
        if state["cases"] != self.dataset.contents:
            raise ValueError(f"{path} was trained on other cases than dataset_dir or datalist has now.")


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
