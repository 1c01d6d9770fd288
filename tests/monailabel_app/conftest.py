"""MONAI Label reads its settings from the environment when it is imported."""

import os

os.environ.setdefault("MONAI_LABEL_TRACKING_ENABLED", "false")
os.environ.setdefault("MONAI_LABEL_AUTO_UPDATE_SCORING", "false")
