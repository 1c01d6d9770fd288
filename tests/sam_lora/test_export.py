"""An adapter as ONNX: the files compute what the unmerged network does, or are not written."""

import importlib.util
import json
import shutil

import onnxruntime
import pytest
import torch

from sam_lora import export
from sam_lora.build import build_sam_lora
from sam_lora.export import ExportError, export_onnx
from sam_lora.interop import write_base
from sam_lora.networks import build_sam
from sam_lora.weights import file_digest
from tests.conftest import overlap, randomize_zeros, write_random_adapter


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """An adapter file and its network, unmerged."""
    path = tmp_path_factory.mktemp("adapter") / "a.safetensors"
    return path, write_random_adapter(path, labels={1: "spleen"}, intensity={"window": [40, 400]})


@pytest.fixture(scope="module")
def files(adapter, tmp_path_factory):
    return export_onnx(str(adapter[0]), tmp_path_factory.mktemp("onnx") / "mine.onnx")


@pytest.fixture(scope="module")
def onnx(files):
    """What a user of the two files writes: image and prompts -> masks, IoU, low-resolution masks."""
    encoder, decoder = (onnxruntime.InferenceSession(str(file)) for file in files)

    def predict(image, points, labels, mask=None):
        (embedding,) = encoder.run(None, {"image": image[None].numpy()})
        side = 4 * embedding.shape[-1]
        inputs = {
            "image_embeddings": embedding,
            "points": points[None].float().numpy(),
            "point_labels": labels[None].float().numpy(),
            "mask_input": (torch.zeros(1, len(points), side, side) if mask is None else mask).numpy(),
            "has_mask_input": torch.tensor([float(mask is not None)]).numpy(),
            "orig_im_size": torch.tensor(image.shape[-2:]).float().numpy(),
        }
        return [torch.from_numpy(result)[0] for result in decoder.run(None, inputs)]

    return predict


@torch.no_grad()
def expected(network, image, points, labels, mask=None):
    size = tuple(image.shape[-2:])
    low_res, iou = network.decode(network.encode(image[None]), points[None], labels[None], size, mask)
    return network.upscale(low_res[0], size), iou[0], low_res[0]


def close(results, wanted):
    return all(float((r - w).abs().max() / w.abs().max()) < 1e-3 for r, w in zip(results, wanted, strict=True))


def test_masks_of_real_slices_are_those_of_the_unmerged_network(onnx, adapter, real_slices):
    network, base = adapter[1], build_sam_lora(image_size=64).eval()
    assert len(real_slices) == 10
    changed = 0
    for image, prompts in real_slices:
        wanted = expected(network, image, prompts.points, prompts.point_labels)[0] > 0
        masks = onnx(image, prompts.points, prompts.point_labels)[0] > 0
        assert masks.shape == wanted.shape
        assert wanted.any()
        assert overlap(masks, wanted) >= 0.999
        changed += overlap(expected(base, image, prompts.points, prompts.point_labels)[0] > 0, wanted) < 0.999
    assert changed >= 5  # the adapter is no identity that a forgotten merge would survive


@pytest.mark.parametrize(
    ("size", "labels"),
    [
        ((50, 70), [[1]]),
        ((300, 200), [[1, 0, 1], [2, 3, -2]]),
        ((64, 64), [[2, 3]]),
        ((20, 1), [[-2, -2]]),
        ((1, 30), [[-1, 1]] * 5),
    ],
)
def test_any_image_and_any_prompts(onnx, adapter, size, labels):
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor(labels)
    image = torch.rand(3, *size, generator=generator) * 255
    points = torch.rand(*labels.shape, 2, generator=generator) * torch.tensor(size[::-1])
    assert close(onnx(image, points, labels), expected(adapter[1], image, points, labels))


def test_a_previous_answer_is_read_as_mask(onnx, adapter):
    image, points, labels = torch.rand(3, 40, 60) * 255, torch.rand(2, 1, 2) * 40, torch.ones(2, 1, dtype=torch.long)
    first = onnx(image, points, labels)
    mask = first[2][None, :, 0] + torch.randn(1, 2, 64, 64) * 5
    second = onnx(image, points, labels, mask)
    assert close(second, expected(adapter[1], image, points, labels, mask))
    assert not close(second, first)


def test_the_files_say_what_they_are(files, adapter):
    assert [file.name for file in files] == ["mine_encoder.onnx", "mine_decoder.onnx"]
    assert sorted(file.name for file in files[0].parent.iterdir()) == ["mine_decoder.onnx", "mine_encoder.onnx"]
    for file in files:
        session = onnxruntime.InferenceSession(str(file))
        said = session.get_modelmeta().custom_metadata_map
        assert (said["variant"], said["image_size"], said["normalization"]) == ("vit_t", "64", "min_max")
        assert (json.loads(said["labels"]), json.loads(said["multimask"])) == ({"1": "spleen"}, False)
        assert json.loads(said["intensity"]) == {"window": [40.0, 400.0]}
        assert said["adapter"] == file_digest(adapter[0], "sha256")
        assert said["base"] == adapter[1].spec.base_digest
    shapes = {entry.name: entry.shape for entry in session.get_inputs()}
    assert shapes["points"] == [1, "objects", "points", 2]


def test_files_that_compute_something_else_are_refused_and_nothing_changes(files, tmp_path, monkeypatch):
    """The adapter's files in place of the base's: valid, of the right shapes, and wrong."""
    by_name = {"base_encoder.onnx": files[0], "base_decoder.onnx": files[1]}
    monkeypatch.setattr(export, "_write", lambda part, path, metadata: shutil.copy(by_name[path.name], path))
    (tmp_path / "base_encoder.onnx").write_bytes(b"before")
    with pytest.raises(
        ExportError,
        match=r"^base_encoder.onnx is not written: its image_embeddings differs from PyTorch's by [\d.e-]+ of",
    ):
        export_onnx("vit_t", tmp_path / "base.onnx", image_size=64)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"base_encoder.onnx": b"before"}


def test_what_cannot_be_exported_is_said(adapter, tmp_path, monkeypatch):
    with pytest.raises(ExportError, match=r"^output must end in .onnx, got .*out.pt\.$"):
        export_onnx("vit_t", tmp_path / "out.pt")
    with pytest.raises(ValueError, match="There is no adapter vit_x"):
        export_onnx("vit_x", tmp_path / "out.onnx")
    (tmp_path / "text.safetensors").write_text("no adapter")
    with pytest.raises(ValueError, match="is no readable safetensors file"):
        export_onnx(str(tmp_path / "text.safetensors"), tmp_path / "out.onnx")
    with pytest.raises(ValueError, match="was made for image_size 64, this network has image_size 128"):
        export_onnx(str(adapter[0]), tmp_path / "out.onnx", image_size=128)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="^the folder of output must be a folder that can be written to"):
        export_onnx(str(adapter[0]), tmp_path / "file" / "out.onnx")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(ExportError, match="needs onnxscript: install with `pip install onnxscript`"):
        export_onnx("vit_t", tmp_path / "out.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "text.safetensors"]


@pytest.mark.accept
def test_three_masks_of_the_whole_vit_t(tmp_path):
    _, decoder = export_onnx("vit_t", tmp_path / "full.onnx", multimask=True)
    shapes = {output.name: output.shape for output in onnxruntime.InferenceSession(str(decoder)).get_outputs()}
    assert shapes["low_res_masks"] == [1, "objects", 3, 256, 256]


@pytest.mark.accept
def test_a_vit_b_with_its_weights_beside_it_as_for_files_beyond_2_gb(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD", 1e8)
    torch.manual_seed(0)
    write_base(tmp_path / "b.safetensors", randomize_zeros(build_sam("vit_b")).state_dict(), "vit_b")
    files = export_onnx("vit_b", tmp_path / "b.onnx", image_size=128, weights=str(tmp_path / "b.safetensors"))
    assert (tmp_path / "b_encoder.onnx.data").stat().st_size > 3e8 > 1e8 > files[0].stat().st_size
    network = build_sam_lora("vit_b", image_size=128, weights=str(tmp_path / "b.safetensors")).eval()
    image = torch.rand(1, 3, 50, 70) * 255
    (embedding,) = onnxruntime.InferenceSession(str(files[0])).run(None, {"image": image.numpy()})
    assert close([torch.from_numpy(embedding)], [network.encode(image).detach()])
