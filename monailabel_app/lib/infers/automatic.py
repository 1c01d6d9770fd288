"""An image in, every label that the adapter has tokens for out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from monailabel_app.lib.adapters import Served
from monailabel_app.lib.infers.options import AXES, adapter_name, class_name, slice_axis
from monailabel_app.lib.service import Service
from sam_lora.prompts import PromptError, token
from sam_lora.registry import BASE, CHAMPION
from sam_lora.requests import ObjectPrompts
from sam_lora.volumes import Volume


class Automatic(InferTask):
    """Segments what is annotated by the labels' learned tokens, on every slice.

    Args:
        service: does the work.
        names: gives value -> name of what is annotated; the answer's values are these.
    """

    def __init__(self, service: Service, names: Callable[[], Mapping[int, str]]) -> None:
        super().__init__(
            type=InferType.SEGMENTATION,
            labels={},
            dimension=3,
            description="SAM-LoRA: every label the adapter has learned, without a prompt.",
        )
        self.service, self.names = service, names

    def is_valid(self) -> bool:
        """Always: where no adapter has learned a label yet, a request is told so."""
        return True

    def info(self) -> dict[str, Any]:
        """What clients show: labels are those that are annotated now, in order from 1."""
        return {**super().info(), "labels": {name: place for place, name in enumerate(self.names().values(), 1)}}

    def config(self) -> dict[str, Any]:
        """The options that a client may set."""
        return {
            "axis": list(AXES),
            "adapter": [CHAMPION, *self.service.adapters.names(), BASE],
            "result_compress": True,
        }

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Answer one request.

        Args:
            request: ``image`` (a path), ``label`` for one label alone, and the options.

        Returns:
            Path of a file with the label map, and params; where labels overlap, the one with the higher logit wins.

        Raises:
            ValueError: if the adapter has learned none of the labels.
        """
        served = self.service.adapters.get(adapter_name(request))
        asked = self._learned(served, class_name(request))

        def read(volume: Volume) -> Sequence[ObjectPrompts]:
            return [
                ObjectPrompts(value, name, dict.fromkeys(range(len(volume)), token(place)))
                for name, (value, place) in asked.items()
            ]

        found = self.service.segment(
            served, Path(str(request["image"])), read, slice_axis(request),
            cancelled=request.get("is_cancelled", lambda: False), max_wait=request.get("max_wait_seconds"),
        )  # fmt: skip
        path, params = self.service.answer(served, found, found.label, request)
        sure = {
            name: {str(k): round(one, 3) for k, one in sorted(found.confidence[value].items())}
            for name, (value, _) in asked.items()
        }
        named = {name: value for name, (value, _) in asked.items()}
        return path, {**params, "label_names": named, "centroids": {}, "confidence": sure}

    def _learned(self, served: Served, name: str | None) -> dict[str, tuple[int, int]]:
        """Of the labels that are asked for: name -> value in the answer, place among the adapter's tokens."""
        places = {served.labels[value]: place for place, value in enumerate(served.tokens)}
        names = self.names()
        known = {n: (place, places[n]) for place, n in enumerate(names.values(), 1) if n in places}
        if name is not None and name not in names.values():
            raise PromptError(f"label must be one of {', '.join(names.values())}, got {name!r}.")
        chosen = known if name is None else {n: one for n, one in known.items() if n == name}
        if not chosen:
            wanted = "a label" if name is None else repr(name)
            raise PromptError(
                f"The adapter {served.name} has not learned to find {wanted} without a prompt yet. Give clicks or a "
                f"box, save labels, and train."
            )
        return chosen
