"""Check the installation: versions, device, space, weights, adapters; say what to do."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from sam_lora.cli import run
from sam_lora.doctor import examine
from sam_lora.files import write_json
from sam_lora.weights import MODELS_DIR


def main(device: str = "auto", models: str = str(MODELS_DIR), json: str | None = None) -> None:
    """Check everything and exit with 1 if something needs doing.

    Args:
        device: auto, cpu, mps or cuda:N.
        models: folder with base weights and adapters.
        json: also write the findings there.
    """
    findings = examine(device, Path(models))
    if json:
        write_json(Path(json), [dataclasses.asdict(f) for f in findings])
    for finding in findings:
        print(f"{'ok ' if finding.is_well else 'BAD'}  {finding.name:<22} {finding.text}")
    bad = sum(not finding.is_well for finding in findings)
    if bad:
        raise ValueError(f"{bad} of {len(findings)} checks need attention, see the lines marked BAD.")


if __name__ == "__main__":
    run(main, "doctor.py")
