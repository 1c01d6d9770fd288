"""The app that MONAI Label loads: what it infers, trains, chooses and scores by."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

from monailabel_app.lib.batch import Batch
from monailabel_app.lib.parts import Parts
from monailabel_app.lib.strategies.unlabelled import strategies
from monailabel_app.lib.tasks import TaskRunningError, is_running, refuse_running, start_batch, start_task
from monailabel_app.lib.watch import Watch
from sam_lora import __version__
from sam_lora.registry import BASE

logger = logging.getLogger(__name__)


class SamLoraLabel(MONAILabelApp):
    """SAM-LoRA for 3D Slicer and OHIF; MONAI Label finds this class because it names its own as the first base.

    Args:
        app_dir: this folder.
        studies: folder of images.
        conf: see :class:`monailabel_app.lib.parts.Parts`.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.parts = Parts(studies, conf or {})
        super().__init__(app_dir, studies, conf, "SAM-LoRA", "Teach SAM your anatomy from a few labels", __version__)

    def init_datastore(self) -> Datastore:
        """The studies folder."""
        return self.parts.datastore

    def init_infers(self) -> dict[str, InferTask]:
        """Prompted and automatic segmentation."""
        return {"sam_lora": self.parts.prompted, "sam_lora_auto": self.parts.automatic}

    def init_trainers(self) -> dict[str, TrainTask]:
        """Training of an adapter."""
        return {"sam_lora": self.parts.training}

    def init_batch_infer(self) -> Callable[..., dict[str, Any]]:
        """Drafts of many images."""
        return Batch()

    def init_strategies(self) -> dict[str, Strategy]:
        """Which image comes next."""
        return strategies(self.parts.seen)

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """How sure the network is."""
        return {"uncertainty": self.parts.scoring}

    def info(self) -> dict[str, Any]:
        """What clients show; labels are the names that are annotated now."""
        return {**super().info(), "labels": list(self.parts.labels.read().values())}

    def start_training(self, request: dict[str, Any]) -> dict[str, Any]:
        """Make room for a training and start it.

        Args:
            request: its settings.

        Returns:
            The task.

        Raises:
            ValueError: with the reason, where it would end before it begins.
            TaskRunningError: if one is running.
        """
        self.parts.training.check(request, self.parts.datastore)
        refuse_running("train")  # before the caches are emptied for nothing
        self.parts.service.make_room()
        return start_task("train", {"model": "sam_lora", **request})

    def on_save_label(self, image_id: str, label_id: str) -> None:
        """Prepare the next training; begin it, where the server was started so and enough labels are new."""
        super().on_save_label(image_id, label_id)
        self.parts.warm.start(image_id)
        try:
            if self.parts.retraining.is_due():
                self.start_training({})
        except (ValueError, TaskRunningError) as error:  # the label is saved: the next one asks again
            logger.info("no training begins by itself: %s", error)

    def on_init_complete(self) -> None:
        """Warm up; only a server does, a training's process has no use for it."""
        super().on_init_complete()
        watch = Watch(self.parts.service.adapters.registry, self._follow)
        self.parts.learn_names()  # of a champion that was promoted since the names were read
        watch.start()
        self.parts.service.warm_up()
        logger.info("warm: the first click will not wait for the network to load")

    def _follow(self, champion: str) -> bool:
        """After a promotion or a roll-back: its labels join the names; drafts and scores, where they are wanted.

        Args:
            champion: what serves now.

        Returns:
            Whether all is begun.
        """
        self.parts.learn_names()
        return not self.parts.drafts or self._refresh(champion)

    def _refresh(self, champion: str) -> bool:
        """After a promotion: draw drafts of what nobody has labelled anew, and look at all images for the strategies.

        Args:
            champion: what serves now.

        Returns:
            Whether it was begun, or there is nothing to do; False while the work for an earlier champion goes on.
        """
        if champion == BASE:  # which finds nothing without a prompt
            return True
        if is_running("batch_infer") or is_running("scoring"):
            return False
        logger.info("%s serves: drafts and scores are made anew", champion)
        start_batch("sam_lora_auto", "unlabeled", {})
        start_task("scoring", {"method": "uncertainty"})
        return True
