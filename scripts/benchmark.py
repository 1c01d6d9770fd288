"""Speed, memory and accuracy against named references, measured in one run; ratios carry over to other machines."""

from __future__ import annotations

from benchmarks import data, encoder, learning, volume
from sam_lora.cli import run

if __name__ == "__main__":
    run(
        {
            "encoder": encoder.encoder,
            "data": data.data,
            "volume": volume.volume,
            "learning": learning.learning,
            # what the sections start in processes of their own
            "worker": encoder.worker,
            "prepare": data.prepare,
            "long_volume": volume.long_volume,
        },
        "benchmark.py",
    )
