"""The demonstration of `make demo`: eleven brain structures, before and after training, in a few minutes."""

from __future__ import annotations

from pathlib import Path

from sam_lora.cli import run
from sam_lora.demo.run import run_demo


def main(output: str = "demo") -> None:
    """Train two adapters on one labelled brain image, compare them with zero-shot on another, write report.html.

    Args:
        output: folder for the data, the runs and the page.
    """
    zero_shot, lora, adapted = run_demo(Path(output))
    print(f"report: {Path(output) / 'report.html'}")
    print(f"LoRA only {lora['dice']['mean']:.3f}, {lora['bytes']} bytes")
    print(f"mean Dice: zero-shot {zero_shot['dice']['mean']:.3f}, adapted {adapted['dice']['mean']:.3f}")


if __name__ == "__main__":
    run(main, "brain_demo.py")
