"""MONAI's own exporters on merged weights, in this process."""

import onnxruntime
import pytest
import torch
from monai.bundle import ckpt_export, onnx_export
from monai.networks.utils import convert_to_torchscript

from sam_lora.interop import merge_adapter
from tests.conftest import BUNDLE, overlap, write_random_adapter

CONFIGS = {name: str(BUNDLE / "configs" / f"{name}.json") for name in ("export", "metadata")}


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """Merged weights and the unmerged network."""
    folder = tmp_path_factory.mktemp("merged")
    network = write_random_adapter(folder / "a.safetensors")
    merge_adapter(folder / "a.safetensors", folder / "merged.pt")
    return folder / "merged.pt", network


def options(merged, filepath, shape):
    return {
        "net_id": "network_def", "config_file": CONFIGS["export"], "meta_file": CONFIGS["metadata"],
        "ckpt_file": str(merged), "filepath": str(filepath), "input_shape": [1, 3, *shape], "image_size": 64,
    }  # fmt: skip


@torch.no_grad()
def test_a_checkpoint_traced_by_monai_equals_the_unmerged_network_on_real_slices(merged, real_slices, tmp_path):
    """Without prompts, which MONAI cannot hand over, this network finds nothing: its highest half is compared."""
    traced = {}
    for image, _ in real_slices:
        shape = tuple(image.shape[-2:])
        if shape not in traced:  # a trace is of one size of image
            path = tmp_path / f"{shape}.ts"
            ckpt_export(use_trace=True, **options(merged[0], path, shape))
            traced[shape] = torch.jit.load(path)
        logits, wanted = traced[shape](image[None]), merged[1](image[None])
        assert overlap(logits > wanted.median(), wanted > wanted.median()) >= 0.999
        assert torch.allclose(logits, wanted, atol=1e-2)
    assert len(traced) == 2


@torch.no_grad()
def test_traced_masks_of_boxes_on_real_slices_are_those_of_the_unmerged_network(merged, real_slices):
    traced = {}
    for image, prompts in real_slices:
        inputs = [image[None], prompts.points[None], prompts.point_labels[None]]
        if image.shape not in traced:
            traced[image.shape] = convert_to_torchscript(merged[1].merged(), inputs=inputs, use_trace=True)
        wanted = merged[1](*inputs) > 0
        assert wanted.any()
        assert overlap(traced[image.shape](*inputs) > 0, wanted) >= 0.999


@pytest.mark.accept
@torch.no_grad()
def test_onnx_of_monai_equals_the_unmerged_network(merged, tmp_path):
    onnx_export(**options(merged[0], tmp_path / "model.onnx", (50, 70)))
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    image = torch.rand(1, 3, 50, 70) * 255
    (logits,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    assert torch.allclose(torch.from_numpy(logits), merged[1](image), atol=1e-2)


def test_the_wrong_weights_are_refused(merged, tmp_path):
    with pytest.raises(RuntimeError, match="Missing key"):
        ckpt_export(use_trace=True, variant="vit_b", **options(merged[0], tmp_path / "model.ts", (50, 70)))
    assert not (tmp_path / "model.ts").exists()
