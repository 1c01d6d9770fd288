"""Speed, memory and accuracy against named references, measured in one run; ratios carry over to other machines."""

from __future__ import annotations

from benchmarks import active_learning, data, encoder, learning, loop, serve, swap, train, volume
from sam_lora.cli import run

if __name__ == "__main__":
    run(
        {
            "encoder": encoder.encoder,
            "data": data.data,
            "volume": volume.volume,
            "train": train.train,
            "learning": learning.learning,
            "serve": serve.serve,
            "swap": swap.swap,
            "loop": loop.loop,
            "active_learning": active_learning.active_learning,
            # what the sections start in processes of their own
            "worker": encoder.worker,
            "train_worker": train.train_worker,
            "prepare": data.prepare,
            "long_volume": volume.long_volume,
        },
        "benchmark.py",
    )
