"""Trunk activations of a labelled image, computed while nobody asks for anything: the next training finds them."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.bundle import ConfigParser

from monailabel_app.lib.datastores.local import StudiesFolder
from monailabel_app.lib.device import Device
from monailabel_app.lib.trainers.cases import TrainingCases
from monailabel_app.lib.trainers.lora import TRUNK_BYTES, LoraTraining
from monailabel_app.lib.trainers.settings import read_settings
from sam_lora.trunk import TrunkCache, forget_oldest

logger = logging.getLogger(__name__)

_PAUSE = 2.0  # seconds between two looks whether a training is over
_MEMORY = 64 << 20  # what is on the disk need not be held too


class Warm:
    """Computes what a training by the default settings would compute first, one slice at a time.

    Args:
        training: knows the settings, and where activations are kept.
        datastore: the labels.
        device: is only used while no request waits for it.
        is_training: a training needs what this would take; it does the rest of what was begun itself.
    """

    def __init__(
        self, training: LoraTraining, datastore: StudiesFolder, device: Device, is_training: Callable[[], bool]
    ) -> None:
        self.training, self.datastore, self.device, self.is_training = training, datastore, device, is_training
        self._lock = threading.Lock()

    def start(self, image: str) -> None:
        """Begin with an image whose label was saved, after a training; images are done one after the other."""
        threading.Thread(target=self._work, args=(image,), name="warm", daemon=True).start()

    def _work(self, image: str) -> None:
        try:
            with self._lock:
                while self.is_training():
                    time.sleep(_PAUSE)
                self.fill(image)
        except Exception:  # nobody waits for this work: it must say itself why it ended
            logger.exception("activations of %s were not computed", image)

    def fill(self, image: str) -> int:
        """Compute and keep the activations of each altered version of each slice that a training would see.

        Args:
            image: id of a labelled image.

        Returns:
            How many slices were done; fewer than all where a training began, none for a held-out image.
        """
        cases = TrainingCases(self.datastore, self.training.names())
        settings = read_settings({}, self.training.preset, self.training.slices)
        if image not in cases.images() or settings["preset"] == "accurate":
            return 0
        run = self.training.folder.parent / "warm" / image
        run.mkdir(parents=True, exist_ok=True)
        try:
            return self._fill(run, cases, image, settings)
        finally:
            shutil.rmtree(run)

    def _fill(self, run: Any, cases: TrainingCases, image: str, settings: Mapping[str, Any]) -> int:
        entry = cases.entry(image, run, settings["axis"])
        cases.write_list(run, [entry])
        options = self.training.bundle_options(run, {**settings, "parent": self.training.parent(settings)}, cases)
        parser = ConfigParser(ConfigParser.load_config_files(options.pop("config_file")))
        parser.update(options)
        dataset, network = (parser.get_parsed_content(name) for name in ("train#dataset", "network"))
        trunk = TrunkCache(network, _MEMORY, self.training.trunk)
        done = 0
        for index in range(len(dataset) * max(1, dataset.versions)):
            sample = torch.as_tensor(dataset[index]["image"])[None]
            with self.device.hold(background=True), torch.inference_mode():
                if self.is_training() or not threading.main_thread().is_alive():
                    return done
                trunk(sample.to(self.device.name))
            done += 1
        forget_oldest(self.training.trunk, TRUNK_BYTES)
        logger.info("the activations of %d slices are ready for a training", done)
        return done
