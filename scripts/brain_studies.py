"""Put the demonstration's two brain images where a label server finds them."""

from __future__ import annotations

from pathlib import Path

from sam_lora.cli import run
from sam_lora.demo.brain import write_brain_studies


def main(folder: str = "demo/studies") -> None:
    """Copy the two brain images into FOLDER.

    Args:
        folder: studies folder of `scripts/serve.py`.
    """
    print(write_brain_studies(Path(folder)))


if __name__ == "__main__":
    run(main, "brain_studies.py")
