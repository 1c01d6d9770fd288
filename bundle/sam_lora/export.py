"""The network as two ONNX files: the image encoder, run once per image, and the decoder, run once per prompt.

Names and types are those of segment-anything's ONNX decoder where the meaning is the same (``image_embeddings``,
``point_labels``, ``mask_input``, ``has_mask_input``, ``orig_im_size``, ``masks``, ``iou_predictions``,
``low_res_masks``). Two things differ: the encoder is exported too, preprocessing included; and ``points`` are pixels
of the image as it is, for several objects at once, where its ``point_coords`` are pixels of the resized image.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim

from sam_lora import __version__
from sam_lora.adapted import SamLora
from sam_lora.build import build_sam_lora
from sam_lora.files import writable_folder
from sam_lora.networks import VARIANTS, Sam
from sam_lora.networks.onnx import Decoder, Encoder
from sam_lora.weights import file_digest

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
OPSET = 18
TOLERANCE = 1e-3  # largest difference from PyTorch, relative to the largest value of the output


class ExportError(ValueError):
    """The network cannot be exported, or an exported file does not compute what the network does."""


@dataclass(frozen=True)
class _Part:
    """One of the two files: what to trace, what it is compared with, and on which inputs; the first ones are traced."""

    module: nn.Module
    reference: Callable[..., Sequence[Tensor]]
    examples: Sequence[tuple[Tensor, ...]]
    inputs: dict[str, dict[int, Any]]  # name -> dynamic axes
    outputs: tuple[str, ...]


def export_onnx(
    source: str,
    output: Path,
    multimask: bool = False,
    image_size: int | None = None,
    weights: str | None = None,
) -> tuple[Path, Path]:
    """Write the network an adapter makes, merged, as ``<stem>_encoder.onnx`` and ``<stem>_decoder.onnx``.

    :class:`sam_lora.networks.onnx.Encoder` and :class:`~sam_lora.networks.onnx.Decoder` say what goes in and comes
    out. Both files are checked, and compared with PyTorch on random images and prompts of several sizes, before they
    take their place. Their metadata names variant, image size, normalization, labels, intensity, and the digests of
    adapter file and base tensors. Weights beyond 2 GB, the most an ONNX file holds (``vit_h``), go to
    ``<stem>_encoder.onnx.data``, which has to stay beside it.

    Args:
        source: an adapter file, or the name of a variant for its base weights alone.
        output: ends in .onnx.
        multimask: three masks per object, for ambiguous prompts, instead of one.
        image_size: pixels a side of what the encoder sees; None for the adapter's or the variant's own.
        weights: base checkpoint; None for the variant's own.

    Returns:
        The two files.

    Raises:
        ExportError: if a package is missing, the ending is another, or a file does not compute what the network does.
        ValueError: if the network cannot be built or the folder not be written to.
    """
    if output.suffix != ".onnx":
        raise ExportError(f"output must end in .onnx, got {output}.")
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(f"Export to ONNX needs {', '.join(missing)}: install with `pip install {' '.join(missing)}`.")
    variant, adapter = (source, None) if source in VARIANTS else (None, source)
    built = build_sam_lora(variant, adapter=adapter, image_size=image_size, weights=weights)
    network, metadata = built.merged(), _metadata(built, adapter, multimask)
    parts = {"encoder": _encoder_part(network), "decoder": _decoder_part(network, multimask)}
    paths = {name: output.with_name(f"{output.stem}_{name}.onnx") for name in parts}
    folder = writable_folder(output.parent, "the folder of output")
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{output.stem}.") as aside, torch.no_grad():
        for name, part in parts.items():
            _write(part, Path(aside) / paths[name].name, metadata)
            _check(part, Path(aside) / paths[name].name)
        for file in sorted(Path(aside).iterdir(), reverse=True):  # .onnx.data before its .onnx
            file.replace(folder / file.name)
    return paths["encoder"], paths["decoder"]


def _metadata(network: SamLora, adapter: str | None, multimask: bool) -> dict[str, str]:
    spec = network.spec
    return {
        "sam_lora": __version__,
        "variant": spec.variant,
        "image_size": str(spec.image_size),
        "normalization": network.normalization,
        "labels": json.dumps(spec.labels),
        "tokens": json.dumps(spec.tokens),
        "neighbours": json.dumps(spec.neighbours),
        "intensity": json.dumps(spec.intensity),
        "multimask": json.dumps(multimask),
        "adapter": "" if adapter is None else file_digest(Path(adapter), "sha256"),
        "base": str(spec.base_digest),
    }


def _encoder_part(network: Sam) -> _Part:
    """A high image that is enlarged and a wide one that is shrunk."""
    side, generator = network.image_size, torch.Generator().manual_seed(0)
    sizes = ((side // 2 + 1, side // 3 + 2), (side // 3 + 2, 2 * side + 5))
    images = [(torch.rand(1, 3, *size, generator=generator) * 255,) for size in sizes]
    axes = {"image": {2: Dim("height"), 3: Dim("width")}}
    return _Part(Encoder(network), lambda image: (network.encode(image),), images, axes, ("image_embeddings",))


def _decoder_part(network: Sam, multimask: bool) -> _Part:
    """Several objects with several points of every label, without and with a mask, and one object with one point."""
    generator = torch.Generator().manual_seed(0)
    grid = network.image_size // network.image_encoder.stride
    channels = network.prompt_encoder.no_mask_embed.embedding_dim
    examples = []
    for objects, points, has_mask, size in ((2, 7, 0, (50, 70)), (1, 1, 0, (90, 40)), (3, 4, 1, (210, 300))):
        examples.append(
            (
                torch.randn(1, channels, grid, grid, generator=generator),
                torch.rand(1, objects, points, 2, generator=generator) * torch.tensor(size[::-1]),
                torch.randint(-2, 4, (1, objects, points), generator=generator).float(),
                torch.randn(1, objects, 4 * grid, 4 * grid, generator=generator) * 5,
                torch.tensor([float(has_mask)]),
                torch.tensor(size).float(),
            )
        )

    def reference(embedding: Tensor, points: Tensor, labels: Tensor, mask: Tensor, has: Tensor, size: Tensor) -> Any:
        height, width = (int(length) for length in size)
        low_res, iou = network.decode(
            embedding, points, labels, (height, width), mask if has.item() else None, multimask
        )
        masks = network.upscale(low_res.flatten(0, 1), (height, width)).unflatten(0, low_res.shape[:2])
        return masks, iou, low_res

    prompts = {1: Dim("objects"), 2: Dim("points")}
    axes: dict[str, dict[int, Any]] = {
        "image_embeddings": {},
        "points": prompts,
        "point_labels": prompts,
        "mask_input": {1: prompts[1]},
        "has_mask_input": {},
        "orig_im_size": {},
    }
    outputs = ("masks", "iou_predictions", "low_res_masks")
    return _Part(Decoder(network, multimask), reference, examples, axes, outputs)


def _write(part: _Part, path: Path, metadata: dict[str, str]) -> None:
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it warns of every operator that it leaves as it is
    program = torch.onnx.export(
        part.module.eval(),
        part.examples[0],
        input_names=list(part.inputs),
        output_names=part.outputs,
        dynamic_shapes=tuple(part.inputs.values()),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    program = cast("torch.onnx.ONNXProgram", program)  # None only where the call writes the file itself
    program.model.metadata_props.update(metadata)
    program.save(path)


def _check(part: _Part, path: Path) -> None:
    """Refuse a file that is no valid ONNX, or differs from the network: an exporter freezes what it cannot express."""
    import onnx
    import onnxruntime

    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for example in part.examples:
        inputs = {name: tensor.numpy() for name, tensor in zip(part.inputs, example, strict=True)}
        for name, expected, result in zip(
            part.outputs, part.reference(*example), session.run(part.outputs, inputs), strict=True
        ):
            if result.shape != tuple(expected.shape):
                raise ExportError(
                    f"{path.name} is not written: its {name} has shape {result.shape}, PyTorch's {tuple(expected.shape)}."
                )
            difference = float((torch.from_numpy(result) - expected).abs().max() / expected.abs().max())
            if not difference <= TOLERANCE:
                raise ExportError(
                    f"{path.name} is not written: its {name} differs from PyTorch's by {difference:.2g} of the largest "
                    f"value, at most {TOLERANCE:g} is allowed. Another version of torch or onnxscript may help."
                )
