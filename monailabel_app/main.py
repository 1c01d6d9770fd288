"""The app that MONAI Label loads: what it infers, trains, chooses and scores by."""

from __future__ import annotations

import logging
from typing import Any

from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

from monailabel_app.lib.parts import Parts
from monailabel_app.lib.strategies.unlabelled import First, Random
from sam_lora import __version__

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

    def init_strategies(self) -> dict[str, Strategy]:
        """Which image comes next."""
        return {"random": Random(), "first": First()}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """How sure the network is."""
        return {"predicted_iou": self.parts.scoring}

    def info(self) -> dict[str, Any]:
        """What clients show; labels are the names that are annotated now."""
        return {**super().info(), "labels": list(self.parts.labels.read().values())}

    def check_train(self, request: dict[str, Any]) -> None:
        """ValueError with the reason where a training would end before it begins."""
        self.parts.training.check(request, self.parts.datastore)

    def on_init_complete(self) -> None:
        """Warm up; only a server does, a training's process has no use for it."""
        super().on_init_complete()
        self.parts.service.warm_up()
        logger.info("warm: the first click will not wait for the network to load")
