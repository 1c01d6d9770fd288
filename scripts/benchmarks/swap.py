"""How long a new adapter takes from its file's rename until a request can use it, by the label server's own classes."""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from monailabel_app.lib.adapters import Adapters
from sam_lora.adapted import SamLora
from sam_lora.adapter import Adapter, read_adapter, write_adapter
from sam_lora.build import Base, build_sam_lora, load_base
from sam_lora.cache import TensorCache
from sam_lora.files import write_json
from sam_lora.networks import look_up_variant
from sam_lora.weights import WeightsError, find_weights, tensors_digest

MOST_MS = {"vit_t": 100, "vit_b": 300}  # that the request after a promotion may wait for the adapter
MOST_KB = 1000  # of an adapter of rank 4 without a decoder
KINDS: dict[str, dict[str, Any]] = {
    "rank 4": {},
    "rank 4, decoder, tokens": {"decoder": "full", "tokens": True, "labels": {1: "one", 2: "two", 3: "three"}},
}
Seconds = dict[str, list[float]]


def swap(swaps: int = 10, only: str | None = None, json: str | None = None) -> None:
    """Time hot swaps of vit_t and vit_b: a new file is promoted, and the next request gets the network merged from it.

    The base is in memory, as in a server that answers. "request" is from the promotion to the merged network; "promotion"
    is what its process does before, from the file's rename on. The parts of a request are timed by themselves. vit_b has
    random weights where the published ones are not there: any are as fast.

    Args:
        swaps: of each kind of adapter, each to a file that was never read.
        only: vit_t or vit_b; None does both.
        json: also write the figures there.
    """
    if only not in (None, *MOST_MS):
        raise ValueError(f"only must be one of {', '.join(MOST_MS)}, got {only!r}.")
    figures: dict[str, Any] = {"threads": torch.get_num_threads()}
    for variant in [only] if only else MOST_MS:
        base = _base(variant)
        for kind, options in KINDS.items():
            with tempfile.TemporaryDirectory() as folder:
                figures[f"{variant}, {kind}"] = _measure(base, Path(folder), options, swaps)
            _show(variant, kind, figures[f"{variant}, {kind}"])
    if json:
        write_json(Path(json), figures)


def _base(variant: str) -> Base:
    try:
        find_weights(variant)
    except WeightsError:
        print(f"the weights of {variant} are not there: random ones")
        row = look_up_variant(variant)
        network = SamLora(row.encoder(), row.image_size, row.normalization).requires_grad_(False)
        return Base(variant, network, tensors_digest(network.state_dict()))
    return load_base(variant)


def _measure(base: Base, folder: Path, options: dict[str, Any], swaps: int) -> dict[str, Any]:
    adapters = Adapters(folder / "adapters", base.variant, "cpu", TensorCache(1 << 20), base)
    adapters.get()  # what served before
    files = [folder / f"{n}.safetensors" for n in range(swaps)]
    for n, path in enumerate(files):
        _write(path, base, options, n)
    gc.freeze()  # as the server does
    seconds: Seconds = {}
    with _memory_growth() as grown:
        for n, path in enumerate(files):
            _swap(adapters, path, f"adapter-{n}", seconds)
    for path in files:
        _take_apart(base, path, seconds)
    gc.unfreeze()
    figures: dict[str, Any] = {"kb": files[0].stat().st_size / 1000, "peak_growth_mb": grown[0]}
    for name, values in seconds.items():
        figures[name] = {"median_ms": 1000 * statistics.median(values), "worst_ms": 1000 * max(values)}
    return figures


def _write(path: Path, base: Base, options: dict[str, Any], seed: int) -> None:
    """An adapter that changes all that it may change, a little."""
    network = build_sam_lora(base.variant, base_of=lambda _: base, **options)
    generator = torch.Generator().manual_seed(seed)
    tensors = {n: t + 0.02 * torch.randn(t.shape, generator=generator) for n, t in network.adapter_tensors().items()}
    write_adapter(path, Adapter(network.spec, tensors))


def _swap(adapters: Adapters, path: Path, name: str, seconds: Seconds) -> None:
    adapters.registry.add(path, name, {"parent": "none"})  # ends with the rename
    renamed = time.perf_counter()
    adapters.registry.promote(name, "for a benchmark")
    promoted = time.perf_counter()
    served = adapters.get()
    ready = time.perf_counter()
    if served.name != name:
        raise ValueError(f"{served.name} serves after {name} was promoted.")
    for what, value in (("request", ready - promoted), ("promotion", promoted - renamed), ("both", ready - renamed)):
        seconds.setdefault(what, []).append(value)


def _take_apart(base: Base, path: Path, seconds: Seconds) -> None:
    """The steps of a request, one by one, on a file whose seal was checked before."""
    checked = read_adapter(path).digest

    def timed(name: str, step: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        made = step()
        seconds.setdefault(name, []).append(time.perf_counter() - begun)
        return made

    adapter = timed("reading", lambda: read_adapter(path, checked))
    network = timed("building", lambda: build_sam_lora(adapter=adapter, base_of=lambda _: base))
    timed("merging", lambda: network.merged(copied=False))


@contextmanager
def _memory_growth() -> Iterator[list[float]]:
    """MB by which the process's peak of resident memory lies above what it held before; Linux counts both."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before, found = _resident_mb("VmRSS"), [0.0]
    yield found
    found[0] = _resident_mb("VmHWM") - before


def _resident_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def _show(variant: str, kind: str, figures: dict[str, Any]) -> None:
    most_kb = f", at most {MOST_KB}" if kind == "rank 4" else ""
    print(f"{variant}, {kind}: {figures['kb']:.0f} kB{most_kb}; peak memory {figures['peak_growth_mb']:+.0f} MB")
    for name, one in figures.items():
        if isinstance(one, dict):
            most = f", at most {MOST_MS[variant]}" if name == "request" else ""
            print(f"  {name}: {one['median_ms']:.0f} ms, worst {one['worst_ms']:.0f}{most}", flush=True)
