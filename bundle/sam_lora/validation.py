"""What decides during training which adapter is best."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from ignite.engine import Engine
from ignite.metrics import Metric

from sam_lora.metrics import nan_mean


class VolumeDice(Metric):
    """Mean Dice of the volumes that slices add up to: of each label in each case, whatever order they come in.

    What is asked for several times on a slice, by tokens and by a person, or part by part, counts each time.

    Absent labels that were segmented all the same count in the volume they are found in, and a case's label that is
    empty on both sides is left out.
    """

    required_output_keys = None

    def reset(self) -> None:
        """Forget everything."""
        self._common: dict[tuple[int, int], int] = defaultdict(int)
        self._total: dict[tuple[int, int], int] = defaultdict(int)

    def iteration_completed(self, engine: Engine) -> None:
        """Take in the batch of an evaluator and its answer, both decollated."""
        for sample, output in zip(engine.state.batch, engine.state.output, strict=True):
            self.update((sample, output))

    def update(self, output: tuple[Any, Any]) -> None:
        """Take in one slice: its sample, and the evaluator's ``pred`` and ``label``."""
        sample, answer = output
        masks, truths = answer["pred"]["logits"][:, -1] > 0, answer["label"]
        for value, mask, truth in zip(sample["values"].tolist(), masks, truths, strict=True):
            key = int(sample["case"]), value
            self._common[key] += int((mask & (truth > 0)).sum())
            self._total[key] += int(mask.sum()) + int((truth > 0).sum())

    def compute(self) -> float:
        """The mean; NaN if nothing was there and nothing was found."""
        return nan_mean(
            [2 * self._common[key] / total if total else float("nan") for key, total in self._total.items()]
        )
