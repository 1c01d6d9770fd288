"""What an evaluation leaves behind: tables, a page, overlays, label maps."""

from __future__ import annotations

import csv
import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from tqdm import tqdm

from sam_lora.cases import write_mask
from sam_lora.evaluation.cases import Evaluated
from sam_lora.evaluation.measuring import FIELDS, OBJECT_FIELDS
from sam_lora.evaluation.page import draw_case, write_page
from sam_lora.evaluation.protocols import EvaluationRules
from sam_lora.evaluation.reliability import reliabilities
from sam_lora.evaluation.summary import describe, jsonable, summarize
from sam_lora.files import write_aside, write_json
from sam_lora.reading import CaseError
from sam_lora.runs import write_provenance

logger = logging.getLogger(__name__)


class EvaluationReport:
    """Evaluator handler that collects :class:`Evaluated` cases and writes an evaluation's files.

    ``metrics.csv`` has a row for each protocol, case and label, ``objects.csv`` one for each object of each slice,
    ``metrics.json`` the means with intervals, ``report.html`` all of it to look at, ``overlays`` a picture of each case.

    Args:
        folder: where the files go.
        rules: of the evaluation; recorded.
        save_masks: also write predicted label maps on the cases' own grids, PNG for a picture, else NIfTI.
        adapter: recorded; empty for the base as it is.
    """

    def __init__(
        self, folder: str, rules: EvaluationRules, save_masks: bool = False, adapter: str | None = None
    ) -> None:
        self.folder, self.rules, self.save_masks, self.adapter = Path(folder), rules, save_masks, adapter or None
        self.rows: list[dict[str, Any]] = []
        self.objects: list[dict[str, Any]] = []
        self.cases: list[dict[str, Any]] = []
        self._bar: tqdm | None = None

    def attach(self, engine: Engine) -> None:
        """Follow the evaluator."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        write_provenance(self.folder)
        self.rows, self.objects, self.cases = [], [], []
        self._bar = tqdm(total=engine.state.epoch_length, desc="evaluating", unit="case")

    def _collect(self, engine: Engine) -> None:
        evaluated: Evaluated = engine.state.output
        self.cases.append(evaluated.describe())
        self.rows += evaluated.rows
        self.objects += evaluated.objects
        case = evaluated.truth.case
        for protocol in evaluated.answers:
            label = evaluated.label_map(protocol)
            draw_case(self.folder / "overlays" / protocol / f"{case.name}.png", evaluated.truth, label)
            if self.save_masks:
                path, image = self.folder / "masks" / protocol / case.name, Path(engine.state.batch["image"])
                write_mask(path, label, case.affine, image, case.axis)
        if self._bar is not None:
            self._bar.update()

    def _finish(self, _: Engine) -> None:
        if self._bar is not None:
            self._bar.close()
        if not self.rows:
            raise CaseError(
                f"None of the {len(self.cases)} cases has an object of at least {self.rules.min_pixels} pixels"
                f"{'' if self.rules.label is None else f' with label {self.rules.label}'}: the masks are empty."
            )
        _write_rows(self.folder / "metrics.csv", FIELDS, self.rows)
        _write_rows(self.folder / "objects.csv", OBJECT_FIELDS, self.objects)
        measured = {row["case"] for row in self.rows}
        summary: dict[str, Any] = {
            "adapter": self.adapter,
            "rules": dataclasses.asdict(self.rules),
            "prompts_from": "ground truth (oracle), the protocol automatic excepted",
            "without_object": [case["name"] for case in self.cases if case["name"] not in measured],
            "protocols": summarize(self.rows),
            "reliability": reliabilities(self.objects),
            "cases": self.cases,
            "rows": self.rows,
        }
        write_json(self.folder / "metrics.json", jsonable(summary))
        write_page(self.folder, summary, self.objects)
        if summary["without_object"]:
            logger.warning("not measured, no object in them: %s", ", ".join(summary["without_object"]))
        logger.info("%s\n%s", self.folder / "report.html", describe(summary["protocols"]))


def _write_rows(path: Path, fields: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    with write_aside(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        for row in rows:  # undefined is empty
            writer.writerow(
                {key: "" if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
            )
