"""What the app is put together from, by the settings it was started with."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel_app.lib.datastores.label_names import RECORDS, LabelNames
from monailabel_app.lib.datastores.local import StudiesFolder
from monailabel_app.lib.infers.automatic import Automatic
from monailabel_app.lib.infers.options import switch
from monailabel_app.lib.infers.prompted import Prompted
from monailabel_app.lib.scoring.seen import Scoring, SeenFile
from monailabel_app.lib.service import Service
from monailabel_app.lib.tasks import is_running
from monailabel_app.lib.trainers.lora import LoraTraining
from monailabel_app.lib.trainers.retraining import Retraining
from monailabel_app.lib.trainers.warm import Warm
from sam_lora.promotion import MARGIN
from sam_lora.settings import find_device

logger = logging.getLogger(__name__)


class Parts:
    """The parts that the app's dictionaries name, made once and shared.

    Args:
        studies: folder of images.
        conf: ``labels`` (names, comma-separated), ``adapters`` (a folder; by default one in the studies' records),
            ``device`` (auto, cpu, cuda:N), ``variant`` (the base that serves without an adapter), ``train_every``
            (labels after which a training begins by itself, 0 for never), ``margin`` (Dice that a new adapter may be
            behind the champion), ``drafts`` ("true": draw them after each promotion); all optional, all strings.

    Raises:
        ValueError: if a setting cannot be used.
    """

    def __init__(self, studies: str, conf: Mapping[str, Any]) -> None:
        if studies.startswith(("http://", "https://")):
            raise ValueError(f"studies must be a folder; servers like {studies} are not supported yet.")
        self.folder = Path(studies).expanduser().absolute()
        records = self.folder / RECORDS
        self.datastore = StudiesFolder(str(self.folder))
        self.labels = LabelNames(self.folder)
        adapters = Path(str(conf.get("adapters") or records / "adapters")).expanduser().absolute()
        device = find_device(str(conf.get("device") or "auto"))
        self.service = Service(adapters, str(device), str(conf.get("variant") or "vit_t"))
        named = [name.strip() for name in str(conf.get("labels") or "").split(",") if name.strip()]
        self.labels.append(named)
        self.learn_names()
        self.prompted = Prompted(self.service, self.labels.read)
        self.automatic = Automatic(self.service, self.labels.read)
        self.training = LoraTraining(
            self.service.adapters, self.labels.read, records / "training", float(conf.get("margin") or MARGIN)
        )
        self.warm = Warm(self.training, self.datastore, self.service.device, lambda: is_running("train"))
        self.retraining = Retraining(self.training, self.datastore, int(conf.get("train_every") or 0))
        self.drafts = switch(conf, "drafts")
        self.seen = SeenFile(records / "seen.json")
        self.scoring = Scoring(self.service, self.seen)

    def learn_names(self) -> None:
        """Append what the champion calls its labels to the names that are annotated, where they can be names here."""
        try:
            self.labels.append(list(self.service.adapters.champion_labels().values()))
        except ValueError as error:  # it serves all the same, under the names that are there
            logger.warning("what the champion calls its labels does not join the names: %s", error)
