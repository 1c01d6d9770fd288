"""Adapters: show, verify, compare, take in foreign ones, give them out, merge; and a label server's: which one serves."""

from __future__ import annotations

import sys
from json import dumps
from pathlib import Path

from sam_lora.adapter import read_adapter, write_adapter
from sam_lora.build import build_sam_lora
from sam_lora.cli import run
from sam_lora.evaluation.comparison import compare as compare_metrics
from sam_lora.evaluation.comparison import describe_comparison, read_metrics
from sam_lora.export import export_onnx
from sam_lora.files import write_json
from sam_lora.interop import (
    describe_adapter,
    export_adapter,
    import_adapter,
    import_base,
    is_positional,
    merge_adapter,
)
from sam_lora.pedigrees import compare_judged, of_unknown_origin
from sam_lora.pedigrees import trained_on as find_trained_on
from sam_lora.registry import BASE, Registry
from sam_lora.weights import load_tensors


def info(file: str, json: str | None = None) -> None:
    """Show what the adapter FILE was made for and from.

    Args:
        file: an adapter.
        json: also write it there.
    """
    content = describe_adapter(read_adapter(Path(file)))
    if json:
        write_json(Path(json), content)
    print(dumps(content, indent=2))


def verify(file: str, weights: str | None = None) -> None:
    """Check the seal of FILE and load it onto its base.

    Args:
        file: an adapter.
        weights: base checkpoint; the variant's own by default.
    """
    network = build_sam_lora(adapter=file, weights=weights)
    print(f"{file} is whole and fits {network.spec.variant}: {len(network.adapter_tensors())} tensors.")


def import_(
    file: str, output: str, variant: str = "vit_b", image_size: int | None = None, lora_only: bool = False
) -> None:
    """Take in a file of others: an adapter of Sam_LoRA or SAMed, or a full checkpoint as base weights.

    Args:
        file: .safetensors or a torch file.
        output: the adapter, or the sealed base weights, to write (.safetensors).
        variant: the base it belongs to; such files do not say.
        image_size: pixels a side it was trained at.
        lora_only: leave out a decoder that makes another number of masks.
    """
    source, target = Path(file), Path(output)
    if is_positional(load_tensors(source)):
        write_adapter(target, import_adapter(source, variant, image_size, lora_only))
    elif image_size is not None or lora_only:
        raise ValueError(f"{source} is a full checkpoint: image_size and lora_only are for adapters only.")
    else:
        import_base(source, variant, target)
    print(target)


def export(
    file: str, output: str, multimask: bool = False, image_size: int | None = None, weights: str | None = None
) -> None:
    """Write the adapter FILE for other tools, by the ending of OUTPUT.

    .safetensors: the format of Sam_LoRA (w_a_000, w_b_000, ...), for q and v of all layers. .onnx: the merged network
    as OUTPUT's stem with _encoder.onnx (once per image) and _decoder.onnx (once per prompt), compared with PyTorch.

    Args:
        file: an adapter; for .onnx also the name of a variant, such as vit_t, for its base alone.
        output: .safetensors or .onnx to write.
        multimask: .onnx: three masks per object instead of one.
        image_size: .onnx of a variant: pixels a side of what the encoder sees.
        weights: .onnx: base checkpoint; the variant's own by default.
    """
    target = Path(output)
    if target.suffix == ".onnx":
        for path in export_onnx(file, target, multimask, image_size, weights):
            print(path)
    elif target.suffix != ".safetensors":
        raise ValueError(f"output must end in .safetensors (the format of Sam_LoRA) or .onnx, got {output}.")
    elif multimask or image_size is not None or weights is not None:
        raise ValueError("multimask, image_size and weights are for .onnx only.")
    else:
        export_adapter(read_adapter(Path(file)), target)
        print(output)


def merge(file: str, output: str, weights: str | None = None) -> None:
    """Merge the adapter FILE into its base: plain full weights with official names.

    Args:
        file: an adapter.
        output: .safetensors (sealed, can be a base again), or .pt for other tools.
        weights: base checkpoint; the variant's own by default.
    """
    merge_adapter(Path(file), Path(output), weights)
    print(output)


def compare(first: str, second: str, adapters: str | None = None, json: str | None = None) -> None:
    """Compare two evaluations of the same cases, FIRST (A) and SECOND (B), patient by patient.

    The difference of the means has a 95 % interval from drawing patients; where it holds zero, no difference is shown.
    With --adapters, FIRST and SECOND are adapters of a label server, and what both reached on its held-out cases is
    compared.

    Args:
        first: metrics.json of an evaluation, of one adapter or the base; or a name.
        second: likewise of another one, with the same protocols, settings and cases; or a name.
        adapters: folder of a label server's adapters.
        json: also write the figures there.
    """
    if adapters is not None:
        _compare_judged(_registry(adapters), first, second, json)
        return
    found = compare_metrics(read_metrics(Path(first)), read_metrics(Path(second)))
    if json:
        write_json(Path(json), {"first": first, "second": second, "protocols": found})
    print(describe_comparison(found, (first, second)))


def _compare_judged(registry: Registry, first: str, second: str, json: str | None) -> None:
    found = compare_judged(registry, str(first), str(second))
    if json:
        write_json(Path(json), {"first": first, "second": second, "protocols": found})
    for protocol, one in found.items():
        print(f"{protocol:<13} Dice A {one['first']:.3f}  B {one['second']:.3f}  B - A {one['difference']:+.3f}  "
              f"({one['pairs']} pairs of case and label)")  # fmt: skip


def list_(folder: str, trained_on: str | None = None, json: str | None = None) -> None:
    """List the adapters in FOLDER, a label server's: which one serves, what each came from and reached.

    Args:
        folder: of adapters.
        trained_on: only those, removed ones too, that were trained on this image or patient, or started from one that
            was.
        json: also write it there.
    """
    registry = _registry(folder)
    names = registry.names() if trained_on is None else find_trained_on(registry, str(trained_on))
    unknown = [] if trained_on is None else of_unknown_origin(registry)
    if unknown:
        print(f"No pedigree tells whom these were trained on: {', '.join(unknown)}.", file=sys.stderr)
    champion = registry.champion()
    found = [{**registry.pedigree(name), "name": name, "champion": name == champion} for name in names]
    if json:
        write_json(Path(json), {"champion": champion, "adapters": found, "events": registry.events()})
    for one in found:
        scores = [
            f"{protocol} {score['challenger']:.3f}"
            for protocol, score in (one.get("scores") or {}).items()
            if score["challenger"] is not None
        ]
        cases = f"{len(one['cases'])} cases, from {one['parent']}" if "cases" in one else "no pedigree"
        print(f"{'*' if one['champion'] else ' '} {one['name']}  {cases}  {', '.join(scores)}".rstrip())
    for sentence in registry.verify():
        print(f"! {sentence}")
    print(f"{champion} serves." if champion != BASE else "No adapter serves: the base does.")


def promote(folder: str, name: str) -> None:
    """Make the adapter NAME of FOLDER the one that serves, from the next request on.

    Args:
        folder: a label server's adapters.
        name: of one of them.
    """
    _registry(folder).promote(str(name), "by hand")
    print(f"{name} serves.")


def rollback(folder: str) -> None:
    """Let the adapter that served before serve again.

    Args:
        folder: a label server's adapters.
    """
    print(f"{_registry(folder).rollback()} serves.")


def prune(folder: str, keep: int = 5) -> None:
    """Remove the oldest adapters of FOLDER; what they were trained on stays on record.

    Args:
        folder: a label server's adapters.
        keep: how many stay, beside the one that serves and the one before it.
    """
    for name in _registry(folder).prune(keep):
        print(f"removed {name}")


def _registry(folder: str) -> Registry:
    if not Path(str(folder)).is_dir():
        raise ValueError(f"folder must be a folder of adapters, there is no {folder}.")
    return Registry(Path(str(folder)))


COMMANDS = {
    "info": info,
    "verify": verify,
    "compare": compare,
    "import": import_,
    "export": export,
    "merge": merge,
    "list": list_,
    "promote": promote,
    "rollback": rollback,
    "prune": prune,
}

if __name__ == "__main__":
    run(COMMANDS, "adapter.py")
