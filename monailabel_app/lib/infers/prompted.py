"""Clicks and boxes in, the complete object out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from monailabel_app.lib.answers import largest_component
from monailabel_app.lib.infers.options import AXES, adapter_name, class_name, slice_axis, switch
from monailabel_app.lib.service import Service
from sam_lora.registry import BASE, CHAMPION
from sam_lora.requests import ObjectPrompts, by_token, read_requests
from sam_lora.volumes import Volume


class Prompted(InferTask):
    """The object that all points and the ROI of a request describe; nothing of earlier requests is in the answer.

    Slicer sends the full list with each click and replaces the whole segment with each answer, so the answer is the
    whole object every time, value 1, and a point that is gone takes its effect with it.

    Args:
        service: does the work.
        names: gives value -> name of what is annotated; empty: any name may be asked for.
    """

    def __init__(self, service: Service, names: Callable[[], Mapping[int, str]]) -> None:
        super().__init__(
            type=InferType.DEEPGROW,
            labels={},
            dimension=3,
            description="SAM-LoRA: an object from clicks and boxes; with propagate, through all its slices.",
        )
        self.service, self.names = service, names

    def is_valid(self) -> bool:
        """Always: without an adapter the base answers."""
        return True

    def info(self) -> dict[str, Any]:
        """What clients show: labels are those that are annotated now, in order from 1."""
        numbered = {name: place for place, name in enumerate(self.names().values(), 1)}
        return {**super().info(), "labels": numbered}

    def config(self) -> dict[str, Any]:
        """The options that a client may set."""
        return {
            "propagate": False,
            "axis": list(AXES),
            "adapter": [CHAMPION, *self.service.adapters.names(), BASE],
            "largest_cc": False,
            "correct_label": False,
            "result_compress": True,
        }

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Answer one request.

        Args:
            request: ``image`` (a path), ``foreground``, ``background``, ``roi``, ``label`` and the options; with
                ``correct_label`` the label's learned tokens join the clicks.

        Returns:
            Path of a file with the mask, 1 where the object is, and params.

        Raises:
            ValueError: if the request cannot be answered; the sentence says why.
        """
        served = self.service.adapters.get(adapter_name(request))
        correct = switch(request, "correct_label")

        def read(volume: Volume) -> Sequence[ObjectPrompts]:
            name = class_name(request)
            asked = {key: request[key] for key in ("foreground", "background", "roi") if request.get(key)}
            known = {} if name is None else dict(self.names())
            (one,) = read_requests({**asked, "label": name}, volume.shape, known, volume.axis,
                                   needs_foreground=not correct)  # fmt: skip
            if correct:
                value = next((v for v, n in served.labels.items() if n == name), -1)
                one = by_token(ObjectPrompts(value, one.name, one.points, one.bounds), served.tokens, len(volume))
            return [ObjectPrompts(1, one.name, one.points, one.bounds)]

        found = self.service.segment(
            served, Path(str(request["image"])), read, slice_axis(request), switch(request, "propagate"),
            request.get("is_cancelled", lambda: False), request.get("max_wait_seconds"),
        )  # fmt: skip
        label = largest_component(found.label) if switch(request, "largest_cc") else found.label
        path, params = self.service.answer(served, found, label, request)
        sure = {str(k): round(value, 3) for k, value in sorted(found.confidence[1].items())}
        return path, {
            **params,
            "label_names": {class_name(request) or "object": 1},
            "centroids": {},
            "confidence": sure,
        }
