"""When a training begins by itself."""

from __future__ import annotations

from monailabel_app.lib.datastores.local import FINAL, StudiesFolder
from monailabel_app.lib.trainers.lora import LoraTraining
from monailabel_app.lib.trainers.progress import SETTINGS, latest_run
from sam_lora.files import read_json


class Retraining:
    """Counts the labels that people saved since the last training began; what is counted is on the disk.

    Args:
        training: leaves its settings behind.
        datastore: the labels.
        every: labels after which a training is due; 0 for never.

    Raises:
        ValueError: if ``every`` is negative.
    """

    def __init__(self, training: LoraTraining, datastore: StudiesFolder, every: int) -> None:
        if every < 0:
            raise ValueError(f"train_every must be a number of labels, or 0 for never, got {every}.")
        self.training, self.datastore, self.every = training, datastore, every

    def is_due(self) -> bool:
        """Whether enough labels are new."""
        return 0 < self.every <= self.new_labels()

    def new_labels(self) -> int:
        """How many labels were saved since the last training began."""
        run = latest_run(self.training.folder)
        since = 0.0 if run is None else read_json(run / SETTINGS)["requested"]
        saved = (
            self.datastore.get_label_info(image, FINAL).get("ts", 0) for image in self.datastore.get_labeled_images()
        )
        return sum(ts >= int(since) for ts in saved)  # labels have whole seconds
