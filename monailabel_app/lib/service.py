"""From a request to an answer: the way of a click through the server."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monailabel_app.lib.adapters import Adapters, Served
from monailabel_app.lib.ahead import Ahead
from monailabel_app.lib.answers import write_answer
from monailabel_app.lib.clock import Clock
from monailabel_app.lib.device import Device
from monailabel_app.lib.images import Images, Study
from monailabel_app.lib.infers.options import switch
from sam_lora.cache import TensorCache
from sam_lora.propagation import Propagation
from sam_lora.requests import ObjectPrompts, read_requests
from sam_lora.segmentation import label_map
from sam_lora.volumes import Volume

logger = logging.getLogger(__name__)

EMBEDDING_BYTES = 2 << 30  # shared by all users: about 500 slices of vit_t or vit_b at their native size
_REMEMBERED = 1000  # images whose last answer is known by its adapter


class ClientGoneError(RuntimeError):
    """The client is gone: nobody waits for the answer."""


@dataclass
class Segmented:
    """An answer.

    Args:
        label: ``(I, J, K)``, integers.
        study: what was segmented.
        confidence: label value -> slice -> 0 to 1, see :class:`sam_lora.propagation.Propagation`.
        seconds: what took how long, by name.
    """

    label: np.ndarray
    study: Study
    confidence: dict[int, dict[int, float]]
    seconds: dict[str, float]


class Service:
    """What the infer tasks of an app share: adapters, images, caches, and the one device.

    Args:
        adapters: folder of adapter files.
        device: what torch calls it.
        variant: the base that serves without an adapter.
    """

    def __init__(self, adapters: Path, device: str = "cpu", variant: str = "vit_t") -> None:
        self.device = Device(device)
        self.images = Images()
        self.embeddings = TensorCache(EMBEDDING_BYTES)
        self.adapters = Adapters(adapters, variant, device, self.embeddings)
        self._ahead = Ahead(self.device)
        self._answered: OrderedDict[str, dict[str, str]] = OrderedDict()

    def segment(
        self,
        served: Served,
        path: Path,
        read: Callable[[Volume], Sequence[ObjectPrompts]],
        axis: int = 2,
        propagated: bool = False,
        cancelled: Callable[[], bool] = lambda: False,
        max_wait: float | None = None,
    ) -> Segmented:
        """Segment objects of an image. The answer follows from the arguments alone; what is cached only saves time.

        Args:
            served: the network.
            path: of the image.
            read: gives the objects that are asked for, once the volume is known.
            axis: of the slices.
            propagated: whole objects instead of their prompted slices.
            cancelled: asked between two slices; once it says so, the work ends.
            max_wait: seconds until the device must be free for it to begin; None: as long as it takes.

        Raises:
            ValueError: if the image or the prompts cannot be used.
            ClientGoneError: if the client is gone.
            BusyError: if ``max_wait`` is over.
        """
        clock = Clock()
        study = self.images.get(path, served.intensity)
        volume = study.volume(axis)
        objects = read(volume)
        clock.mark("image")
        self._ahead.stop()
        with self.device.hold(timeout=max_wait), torch.inference_mode():
            clock.mark("wait")
            progress = _Progress(self.device, cancelled, path.name)
            propagation = Propagation(served.embedder, volume, objects, on_slice=progress)
            masks = propagation.whole_objects() if propagated else propagation.prompted_slices()
            clock.mark("network")
            label = label_map(served.embedder, volume, [one.value for one in objects], masks)
            clock.mark("mask")
        asked = sorted({k for one in objects for k in one.prompted})
        if not propagated and len(asked) < len(volume):
            self._ahead.start(served, volume, asked)
        self.remember(path, {"adapter": served.name, "adapter_digest": served.digest})
        confidence = {one.value: found for one, found in zip(objects, propagation.confidence, strict=True)}
        return Segmented(label, study, confidence, clock.seconds)

    def answer(
        self, served: Served, found: Segmented, label: np.ndarray, request: Mapping[str, Any]
    ) -> tuple[str, dict]:
        """Write the file that a client gets, and what is said beside it.

        Args:
            served: the network that answered.
            found: its answer.
            label: what is shown of it, ``(I, J, K)``.
            request: of the client, for the file's ending, type and compression.

        Returns:
            Path of a temporary file, and params.
        """
        begun = time.perf_counter()
        ending = str(request.get("result_extension") or ".nrrd")
        compress = request.get("result_compress") is None or switch(request, "result_compress")
        path = write_answer(
            label, found.study.affine, ending if ending.startswith(".") else f".{ending}",
            str(request.get("result_dtype") or "uint8"), compress,
        )  # fmt: skip
        seconds = {**found.seconds, "write": time.perf_counter() - begun}
        return str(path), {
            "adapter": served.name,
            "adapter_digest": served.digest,
            "quality": served.quality,
            "latencies": {name: round(value, 4) for name, value in {**seconds, "total": sum(seconds.values())}.items()},
        }

    def answered(self, path: Path) -> dict[str, str]:
        """Name and digest of the adapter whose answer an image had last; empty where it had none."""
        return dict(self._answered.get(str(path), {}))

    def remember(self, path: Path, said: Mapping[str, Any]) -> None:
        """Note whose answer an image had last.

        Args:
            path: of the image.
            said: with ``adapter`` and ``adapter_digest``; what a draft's information says, which may have neither.
        """
        self._answered[str(path)] = {key: str(said[key]) for key in ("adapter", "adapter_digest") if key in said}
        while len(self._answered) > _REMEMBERED:
            self._answered.popitem(last=False)

    def forget(self, path: Path) -> None:
        """Give up what is kept of an image that is not asked for again."""
        self.images.forget(path)
        self._answered.pop(str(path), None)

    def make_room(self) -> None:
        """Give a GPU's memory back before a training wants it; a CPU's is not scarce."""
        self._ahead.stop()
        if torch.device(self.device.name).type == "cuda":
            with self.device.hold():
                self.embeddings.clear()
                torch.cuda.empty_cache()

    def warm_up(self) -> None:
        """Load the network and go once through all that is slow the first time."""
        served = self.adapters.get()
        array = np.zeros((8, 8, 2), np.uint8)
        with self.device.hold(), torch.inference_mode():
            volume = Volume(array)
            objects = read_requests({"foreground": [[4, 4, 0]]}, volume.shape, {})
            Propagation(served.embedder, volume, objects).prompted_slices()
        Path(write_answer(array, np.eye(4), ".nrrd", "uint8", True)).unlink()


class _Progress:
    """After each slice: others may go first, the log says how far a long work is, a client that is gone ends it."""

    def __init__(self, device: Device, cancelled: Callable[[], bool], name: str) -> None:
        self.device, self.cancelled, self.name = device, cancelled, name
        self._said = time.perf_counter()

    def __call__(self, done: int, total: int) -> None:
        if done == total:
            return
        if self.cancelled():
            raise ClientGoneError(f"The client that asked for {self.name} is gone.")
        self.device.give_way()
        if time.perf_counter() - self._said > 2:
            self._said = time.perf_counter()
            logger.info("%s: slice %d of %d", self.name, done, total)
