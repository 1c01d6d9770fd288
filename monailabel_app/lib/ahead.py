"""Slices that will be asked for next, encoded before anybody asks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from monailabel_app.lib.adapters import Served
from monailabel_app.lib.device import Device
from sam_lora.volumes import Volume

logger = logging.getLogger(__name__)

AHEAD = 8  # slices on each side of a click that are encoded while nobody asks


class Ahead:
    """Encodes the slices around the last click while nobody asks for anything, one at a time.

    Args:
        device: is only used while no request waits for it.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._lock = threading.Lock()
        self._next: Iterator[Callable[[], object]] = iter(())  # what is left to encode, a slice each
        self._works = False  # one thread at most: where clicks keep coming, others would wait for the device for ever

    def stop(self) -> None:
        """End what is going on after its current slice: somebody asks for something."""
        with self._lock:
            self._next = iter(())

    def start(self, served: Served, volume: Volume, asked: Sequence[int]) -> None:
        """Begin with the slices nearest to those that were asked for."""
        near = sorted(
            {k + step for k in asked for step in range(-AHEAD, AHEAD + 1) if 0 <= k + step < len(volume)},
            key=lambda k: min(abs(k - one) for one in asked),
        )
        embedder = served.embedder
        with self._lock:
            self._next = (partial(embedder.embed, volume, [k]) for k in near if not embedder.holds(volume, k))
            if self._works:
                return
            self._works = True
        threading.Thread(target=self._work, name="ahead").start()

    def _work(self) -> None:
        try:
            while self._encode_one():
                pass
        except Exception:  # nobody waits for this work: it must say itself why it ended
            logger.exception("encoding ahead ended")
            with self._lock:
                self._works = False

    def _encode_one(self) -> bool:
        """Encode the next slice once nobody asks for anything; whether there was one."""
        with self.device.hold(background=True), torch.inference_mode():
            with self._lock:
                encode = next(self._next, None) if threading.main_thread().is_alive() else None
                self._works = encode is not None
            if encode is not None:
                encode()
        return encode is not None
