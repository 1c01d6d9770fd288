"""Parity with segment-anything 1.0, part by part and whole; batches; sizes; precision."""

import copy

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling import Sam as OfficialSam

from sam_lora.networks import VARIANTS, Sam, build_sam
from sam_lora.networks.image_encoder import ImageEncoder
from tests.conftest import randomize_zeros

# heads, depth, global layers and grid of each variant, reduced; 20 and 18 positions are no multiple of the window, 14
REDUCED = {
    "vit_b": {"heads": 12, "depth": 3, "global_layers": (2,), "size": 320},
    "vit_l": {"heads": 16, "depth": 4, "global_layers": (1, 3), "size": 288},
    "vit_h": {"heads": 16, "depth": 4, "global_layers": (0, 2), "size": 224},
}


def official(width, depth, heads, global_layers, size):
    encoder = ImageEncoderViT(
        img_size=size, patch_size=16, embed_dim=width, depth=depth, num_heads=heads, mlp_ratio=4, out_chans=256,
        qkv_bias=True, use_rel_pos=True, window_size=14, global_attn_indexes=global_layers,
        norm_layer=lambda c: torch.nn.LayerNorm(c, eps=1e-6),
    )  # fmt: skip
    grid = size // 16
    prompt_encoder = PromptEncoder(256, (grid, grid), (size, size), 16)
    decoder = MaskDecoder(
        num_multimask_outputs=3, transformer=TwoWayTransformer(2, 256, 8, 2048), transformer_dim=256, iou_head_depth=3,
        iou_head_hidden_dim=256,
    )  # fmt: skip
    sam = OfficialSam(encoder, prompt_encoder, decoder, [123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    return randomize_zeros(sam).eval()


def pair(name):
    torch.manual_seed(0)
    row = REDUCED[name]
    width = row["heads"] * 8
    theirs = official(width, row["depth"], row["heads"], row["global_layers"], row["size"])
    encoder = ImageEncoder(width, row["depth"], row["heads"], row["global_layers"], native_size=row["size"])
    ours = Sam(encoder, row["size"], "mean_std").eval()
    ours.load_state_dict(theirs.state_dict())  # strict: every official key is used, no other is needed
    return ours, theirs


def difference(a, b):
    return float((a - b).abs().max() / b.abs().max())


@pytest.fixture(params=REDUCED)
def networks(request):
    return pair(request.param)


@torch.no_grad()
def test_the_image_encoder_equals_the_official_one(networks):
    ours, theirs = networks
    image = torch.randn(2, 3, ours.image_size, ours.image_size)
    assert difference(ours.image_encoder(image), theirs.image_encoder(image)) < 1e-5


@torch.no_grad()
def test_an_altered_relative_position_is_noticed(networks):
    ours, theirs = networks
    image = torch.randn(1, 3, ours.image_size, ours.image_size)
    for name in ("rel_pos_h", "rel_pos_w"):
        for block in range(len(ours.image_encoder.blocks)):
            altered = copy.deepcopy(ours)
            getattr(altered.image_encoder.blocks[block].attn, name)[3] += 0.1
            assert difference(altered.image_encoder(image), theirs.image_encoder(image)) > 1e-5


def test_both_ways_of_attending_agree(networks):
    ours, _ = networks
    image = torch.randn(1, 3, ours.image_size, ours.image_size)
    with_graph = ours.image_encoder(image)
    with torch.no_grad():
        without = ours.image_encoder(image)
    assert difference(with_graph.detach(), without) < 1e-5


PROMPTS = {
    "points": ([[[30.0, 40.0], [100.0, 90.0]]], [[1, 0]], None),
    "box": (None, None, [[20.0, 30.0, 120.0, 140.0]]),
    "both": ([[[30.0, 40.0]]], [[1]], [[20.0, 30.0, 120.0, 140.0]]),
    "nothing": (None, None, None),
}


@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("with_mask", [False, True])
@torch.no_grad()
def test_prompt_encoder_and_mask_decoder_equal_the_official_ones(kind, multimask, with_mask):
    ours, theirs = pair("vit_b")
    size = ours.image_size
    embedding = torch.randn(1, 256, size // 16, size // 16)
    points, labels, boxes = (None if part is None else torch.tensor(part) for part in PROMPTS[kind])
    mask = torch.randn(1, 1, size // 4, size // 4) if with_mask else None
    sparse, dense = theirs.prompt_encoder(None if points is None else (points, labels), boxes, mask)
    expected = theirs.mask_decoder(embedding, theirs.prompt_encoder.get_dense_pe(), sparse, dense, multimask)

    all_points = torch.cat([p for p in (points, None if boxes is None else boxes.view(1, 2, 2)) if p is not None] or
                           [torch.zeros(1, 1, 2)], 1)  # fmt: skip
    all_labels = torch.tensor(
        [[*([] if labels is None else labels[0].tolist()), *([] if boxes is None else [2, 3])] or [-2]]
    )
    found = ours.decode(embedding, all_points[None], all_labels[None], (size, size), mask, multimask)
    assert difference(found[0][0], expected[0]) < 1e-5
    assert difference(found[1][0], expected[1]) < 1e-5


@torch.no_grad()
def test_the_whole_network_equals_the_official_one(networks):
    ours, theirs = networks
    size = ours.image_size
    image = torch.rand(3, size, size) * 255
    boxes = torch.tensor([[20.0, 30.0, 120.0, 140.0], [50.0, 60.0, 90.0, 200.0]])
    request = {"image": image, "original_size": (size, size), "boxes": boxes}
    expected = theirs([request], multimask_output=False)[0]["low_res_logits"]
    found, _ = ours.decode(ours.encode(image[None]), boxes.view(1, 2, 2, 2), torch.tensor([[[2, 3]] * 2]), (size, size))
    assert difference(found[0], expected) < 1e-5


@torch.no_grad()
def test_full_size_vit_b_equals_the_official_one():
    torch.manual_seed(0)
    theirs = official(768, 12, 12, (2, 5, 8, 11), 1024)
    ours = build_sam("vit_b").eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 3, 1024, 1024)
    assert difference(ours.image_encoder(image), theirs.image_encoder(image)) < 1e-4


@torch.no_grad()
def test_upscaling_equals_the_official_one():
    ours, theirs = pair("vit_b")
    low_res, size = torch.randn(1, 2, 80, 80), (150, 233)
    expected = theirs.postprocess_masks(low_res, ours.resized(size), size)
    assert torch.allclose(ours.upscale(low_res, size), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["vit_b", "medsam_vit_b", "vit_l", "vit_h"])
def test_full_size_rows_have_the_official_shapes(name):
    rows = {"vit_b": (768, 12, 12, (2, 5, 8, 11)), "vit_l": (1024, 24, 16, (5, 11, 17, 23)),
            "vit_h": (1280, 32, 16, (7, 15, 23, 31))}  # fmt: skip
    with torch.device("meta"):
        ours = build_sam(name)
        width, depth, heads, layers = rows[name.removeprefix("medsam_")]
        theirs = ImageEncoderViT(img_size=1024, embed_dim=width, depth=depth, num_heads=heads, use_rel_pos=True,
                                 window_size=14, global_attn_indexes=layers)  # fmt: skip
    expected = {f"image_encoder.{k}": v.shape for k, v in theirs.state_dict().items()}
    found = {k: v.shape for k, v in ours.state_dict().items() if k.startswith("image_encoder.")}
    assert found == expected
    assert [i for i, b in enumerate(ours.image_encoder.blocks) if not b.attn.window_size] == list(layers)


@torch.no_grad()
def test_a_batch_with_different_prompts_equals_its_images_alone(toy_sam):
    image = torch.rand(2, 3, 40, 50) * 255
    points = torch.tensor([[[[5.0, 6], [30, 20], [0, 0]], [[9, 9], [0, 0], [0, 0]]],
                           [[[8, 8], [20, 30], [12, 12]], [[0, 0], [0, 0], [0, 0]]]])  # fmt: skip
    labels = torch.tensor([[[2, 3, -2], [1, -2, -2]], [[2, 3, 1], [-2, -2, -2]]])
    together = toy_sam(image, points, labels)
    for b, objects in ((0, ((0, 2), (1, 1))), (1, ((0, 3),))):
        for p, count in objects:
            alone = toy_sam(
                image[b : b + 1], points[b : b + 1, p : p + 1, :count], labels[b : b + 1, p : p + 1, :count]
            )
            assert torch.allclose(together[b, p], alone[0, 0], atol=1e-4)
    assert torch.allclose(together[1, 1], toy_sam(image[1:])[0, 0], atol=1e-4)  # only padding is no prompt


@torch.no_grad()
def test_padding_is_not_a_point_and_a_not_a_point_token_is_no_padding(toy_sam):
    image, points = torch.rand(1, 3, 40, 50) * 255, torch.tensor([[[[5.0, 6], [30, 20], [7, 7]]]])
    box = toy_sam(image, points[:, :, :2], torch.tensor([[[2, 3]]]))
    assert torch.allclose(toy_sam(image, points, torch.tensor([[[2, 3, -2]]])), box, atol=1e-5)
    assert not torch.allclose(toy_sam(image, points, torch.tensor([[[2, 3, -1]]])), box, atol=1e-3)


@pytest.mark.parametrize("size", [(33, 47), (64, 7), (7, 64), (1, 1), (200, 30), (64, 64)])
@torch.no_grad()
def test_logits_have_the_size_of_the_image(toy_sam, size):
    logits = toy_sam(torch.rand(1, 3, *size) * 255)
    assert logits.shape == (1, 1, *size)
    assert logits.isfinite().all()


@torch.no_grad()
def test_scaling_image_and_points_together_leaves_the_mask_in_place(toy_sam):
    image = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8) * 255, size=(64, 64), mode="bilinear")
    double = image.repeat_interleave(2, -1).repeat_interleave(2, -2)
    points, labels = torch.tensor([[[[10.0, 12], [40, 50]]]]), torch.tensor([[[2, 3]]])
    low = toy_sam.decode(toy_sam.encode(image), points, labels, (64, 64))[0]
    high = toy_sam.decode(toy_sam.encode(double), 2 * points, labels, (128, 128))[0]
    assert torch.corrcoef(torch.stack([low.flatten(), high.flatten()]))[0, 1] > 0.99


def test_gradients_reach_every_parameter(toy_sam):
    toy_sam.requires_grad_(True)
    image = torch.rand(1, 3, 64, 64) * 255
    points, labels = torch.rand(1, 5, 1, 2) * 60, torch.tensor([[[0], [1], [2], [3], [-1]]])
    logits, iou = toy_sam.decode(toy_sam.encode(image), points, labels, (64, 64), multimask=True)
    single, _ = toy_sam.decode(toy_sam.encode(image), points, labels, (64, 64), mask=torch.randn(1, 5, 32, 32))
    (logits.sum() + iou.sum() + single.sum()).backward()
    without = {n for n, p in toy_sam.named_parameters() if p.grad is None or not p.grad.any()}
    # A query's own bias cancels in the softmax of its row, a key's in every row.
    assert {n for n in without if not n.endswith("k_proj.bias")} <= {"image_encoder.blocks.1.attn.qkv.bias"}


def test_gradient_checkpointing_changes_no_gradient(toy_sam):
    image = torch.rand(1, 3, 64, 64) * 255
    grads = []
    for checkpointing in (False, True):
        toy_sam.requires_grad_(True).zero_grad()
        toy_sam.image_encoder.gradient_checkpointing = checkpointing
        toy_sam(image).sum().backward()
        grads.append([p.grad.clone() for p in toy_sam.image_encoder.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_gives_nearly_the_same_mask(toy_sam, dtype):
    image, points, labels = (
        torch.rand(1, 3, 64, 64) * 255,
        torch.tensor([[[[10.0, 12], [40, 50]]]]),
        torch.tensor([[[2, 3]]]),
    )
    full = toy_sam(image, points, labels)
    half = copy.deepcopy(toy_sam).to(dtype)(image, points, labels)
    assert half.dtype == torch.float32
    assert torch.corrcoef(torch.stack([full.flatten(), half.flatten()]))[0, 1] > 0.98


@pytest.mark.skipif(not torch.cuda.is_available() and not torch.backends.mps.is_available(), reason="needs a GPU")
@torch.no_grad()
def test_a_gpu_gives_the_same_mask(toy_sam):
    device = "cuda" if torch.cuda.is_available() else "mps"
    image, points, labels = (
        torch.rand(1, 3, 64, 64) * 255,
        torch.tensor([[[[10.0, 12], [40, 50]]]]),
        torch.tensor([[[2, 3]]]),
    )
    expected = toy_sam(image, points, labels)
    found = copy.deepcopy(toy_sam).to(device)(image.to(device), points.to(device), labels.to(device))
    assert torch.allclose(found.cpu(), expected, atol=1e-2)


@torch.no_grad()
def test_a_compiled_network_gives_the_same_mask(toy_sam):
    image, points, labels = (
        torch.rand(1, 3, 64, 64) * 255,
        torch.tensor([[[[10.0, 12], [40, 50]]]]),
        torch.tensor([[[2, 3]]]),
    )
    compiled = torch.compile(toy_sam, backend="eager")
    assert torch.allclose(compiled(image, points, labels), toy_sam(image, points, labels), atol=1e-4)


@torch.no_grad()
def test_another_image_size_interpolates_positions(toy_sam):
    smaller = copy.deepcopy(toy_sam)
    smaller.image_size = 48
    assert smaller(torch.rand(1, 3, 40, 50) * 255).shape == (1, 1, 40, 50)


@pytest.mark.parametrize("size", [0, -64, 100])
def test_an_image_size_off_the_stride_is_refused(size):
    with pytest.raises(ValueError, match=f"image_size must be a positive multiple of 16 for this encoder, got {size}"):
        build_sam("vit_b", size)


def test_an_unknown_variant_is_refused():
    with pytest.raises(
        ValueError, match="variant must be one of vit_b, vit_l, vit_h, medsam_vit_b, vit_t, got 'vit_x'"
    ):
        build_sam("vit_x")


def test_normalization_belongs_to_the_row():
    assert {name: row.normalization for name, row in VARIANTS.items()} == {
        "vit_b": "mean_std", "vit_l": "mean_std", "vit_h": "mean_std", "medsam_vit_b": "min_max", "vit_t": "min_max",
    }  # fmt: skip
