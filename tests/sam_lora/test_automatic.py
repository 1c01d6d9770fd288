"""Masks of everything: parity with segment-anything 1.0's generator, and laws."""

import copy
import sys

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator

from sam_lora.automatic import AutomaticMaskGenerator, label_map
from sam_lora.build import build_sam_lora
from sam_lora.networks import Sam
from sam_lora.networks.image_encoder import ImageEncoder
from sam_lora.rle import compress_rle, mask_to_rle
from tests.conftest import randomize_zeros
from tests.sam_lora.networks.test_sam import official

NATIVE = 160
OPTIONS = {
    "points_per_side": 8, "pred_iou_thresh": 0.4, "stability_score_thresh": 0.5, "box_nms_thresh": 0.98,
    "crop_nms_thresh": 0.98, "crop_n_points_downscale_factor": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def networks():
    """The reduced ViT-B of both sides, altered alike so that random weights give masks worth filtering.

    Random upsampling scatters a mask's pixels over the image: here it repeats pixels. One channel is made constant,
    and through it each mask's logits fall by a number that leaves small objects; then logits and predicted IoU are
    spread to the range of the thresholds.
    """
    torch.manual_seed(0)
    theirs = official(96, 3, 12, (2,), NATIVE)
    decoder = theirs.mask_decoder
    with torch.no_grad():
        for layer in (decoder.output_upscaling[0], decoder.output_upscaling[3]):
            layer.weight.copy_(2 * layer.weight.mean((2, 3), keepdim=True))
        layer.weight[:, 0], layer.bias[0] = 0, 10
        for mlp, shift in zip(decoder.output_hypernetworks_mlps, (0, 0.03, 0.18, 0.12), strict=True):
            last = mlp.layers[-1]
            last.weight[0], last.bias[0] = 0, -shift / 10
            last.weight.mul_(200), last.bias.mul_(200)
        last = decoder.iou_prediction_head.layers[-1]
        last.weight.mul_(8), last.bias.copy_(torch.tensor([0, 1.4, -1.2, 0.6]))
    ours = Sam(ImageEncoder(96, 3, 12, (2,), native_size=NATIVE), NATIVE, "mean_std").eval()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def picture(seed, height, width, channels=3):
    """Twelve discs."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.zeros((height, width, channels))
    for _ in range(12):
        cy, cx, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0.05, 0.2) * max(height, width)
        image[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] = rng.uniform(0, 255, channels)
    return image.astype(np.uint8)


def pictures(side):
    return {
        "tall": picture(0, side, side * 3 // 4),
        "wide": picture(1, side * 4 // 5, side),
        "grey": picture(3, side, side, 1)[..., 0],
    }


def official_masks(network, image, as_tensor, **options):
    """Records of segment-anything's generator.

    It resizes uint8 images with Pillow, which rounds to whole grey values; ours stays in float. Images of the native
    size are not resized by either. For other sizes and crops, ``as_tensor`` replaces its image resizing by the
    interpolation of its own tensor path (not by that path itself: ``apply_image_torch`` of release 1.0 takes batch and
    channels for height and width).
    """
    generator = SamAutomaticMaskGenerator(network, **options)
    transform = generator.predictor.transform

    def resize(crop):
        size = transform.get_preprocess_shape(*crop.shape[:2], transform.target_length)
        tensor = torch.tensor(crop).permute(2, 0, 1)[None].float()
        resized = torch.nn.functional.interpolate(tensor, size, mode="bilinear", align_corners=False, antialias=True)
        return resized[0].permute(1, 2, 0).numpy()

    if as_tensor:
        transform.apply_image = resize
    return generator.generate(image if image.ndim == 3 else np.repeat(image[..., None], 3, 2))


def essence(records):
    return [(r["area"], r["bbox"], r["crop_box"]) for r in records]


@pytest.mark.parametrize(
    ("side", "extra"),
    [
        (NATIVE, {}),
        (NATIVE, {"min_mask_region_area": 100, "crop_nms_thresh": 0.99}),  # the larger threshold counts
        (NATIVE * 3 // 2, {"crop_n_layers": 1}),
    ],
    ids=["plain", "small regions", "crops"],
)
@pytest.mark.parametrize("name", ["tall", "wide", "grey"])
def test_masks_equal_the_official_ones(networks, name, side, extra):
    ours, theirs = networks
    image, options = pictures(side)[name], OPTIONS | extra
    found = AutomaticMaskGenerator(ours, **options).generate(image)
    expected = official_masks(theirs, image, as_tensor=side != NATIVE, **options)
    assert 12 <= len(found) < 3 * 64  # some pass, some do not
    assert [(r["bbox"], r["crop_box"]) for r in found] == [(r["bbox"], r["crop_box"]) for r in expected]
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        assert a["area"] == a["segmentation"].sum()
        # Logits differ by float32's rounding: a pixel in thousands may lie so near to 0 that it falls on the other side.
        assert (a["segmentation"] != b["segmentation"]).sum() <= 1
        assert np.allclose(a["point_coords"], b["point_coords"])
        scores = ("predicted_iou", "stability_score")
        assert np.allclose([a[s] for s in scores], [b[s] for s in scores], atol=1e-3)


def test_records_of_crops_are_in_the_frame_of_the_image(networks):
    image = pictures(NATIVE * 3 // 2)["tall"]
    records = AutomaticMaskGenerator(networks[0], **OPTIONS, crop_n_layers=1).generate(image)
    assert len({str(r["crop_box"]) for r in records}) > 2
    for record in records:
        x, y, width, height = record["crop_box"]
        mask = record["segmentation"]
        assert mask.shape == image.shape[:2]
        assert record["area"] == mask.sum() == mask[y : y + height, x : x + width].sum()
        ys, xs = np.nonzero(mask)
        assert record["bbox"] == [xs.min(), ys.min(), np.ptp(xs), np.ptp(ys)]
        ((px, py),) = record["point_coords"]
        assert x < px < x + width
        assert y < py < y + height


def test_each_crop_is_encoded_once_and_batches_change_no_mask(networks):
    image, options = pictures(NATIVE)["tall"], OPTIONS | {"points_per_side": 4, "crop_n_layers": 1}
    calls = []
    hook = networks[0].image_encoder.register_forward_hook(lambda *_: calls.append(1))
    together = AutomaticMaskGenerator(networks[0], **options).generate(image)
    hook.remove()
    assert len(calls) == 5
    assert together
    assert essence(together) == essence(
        AutomaticMaskGenerator(networks[0], **options, points_per_batch=3).generate(image)
    )


def test_masks_are_upscaled_a_few_at_a_time(networks, monkeypatch):
    image, sizes = pictures(NATIVE)["tall"], []
    upscale = networks[0].upscale
    monkeypatch.setattr(
        networks[0], "upscale", lambda logits, size: sizes.append(logits.shape[1]) or upscale(logits, size)
    )
    expected = AutomaticMaskGenerator(networks[0], **OPTIONS).generate(image)
    assert max(sizes) > 5
    monkeypatch.setattr("sam_lora.automatic._LOGITS_AT_ONCE", 5 * NATIVE**2)
    sizes.clear()
    assert essence(AutomaticMaskGenerator(networks[0], **OPTIONS).generate(image)) == essence(expected)
    assert max(sizes) == 5


def test_every_output_mode_holds_the_same_masks(networks):
    image = pictures(NATIVE)["tall"]
    binary, lists, coco = (
        AutomaticMaskGenerator(networks[0], **OPTIONS, output_mode=mode).generate(image)
        for mode in ("binary_mask", "uncompressed_rle", "coco_rle")
    )
    for a, b, c in zip(binary, lists, coco, strict=True):
        assert b["segmentation"] == mask_to_rle(a["segmentation"])
        assert c["segmentation"] == compress_rle(b["segmentation"])
    assert np.array_equal(label_map(binary, (160, 120)), label_map(lists, (160, 120)))
    assert np.array_equal(label_map(binary, (160, 120)), label_map(coco, (160, 120)))


def test_given_points_equal_the_same_regular_ones(networks):
    image = pictures(NATIVE)["tall"]
    cells = (np.arange(8) + 0.5) / 8
    grid = [(x, y) for y in cells for x in cells]
    found = AutomaticMaskGenerator(networks[0], **OPTIONS | {"points_per_side": None, "point_grids": [grid]}).generate(
        image
    )
    assert essence(found) == essence(AutomaticMaskGenerator(networks[0], **OPTIONS).generate(image))


def test_where_no_mask_passes_the_list_is_empty(networks):
    options = OPTIONS | {"pred_iou_thresh": 1.0, "stability_score_thresh": 1.0, "crop_n_layers": 1}
    records = AutomaticMaskGenerator(networks[0], **options, min_mask_region_area=9).generate(pictures(NATIVE)["tall"])
    assert records == []
    assert not label_map(records, (160, 120)).any()


def test_the_untrained_three_masks_of_vit_t_do_not_pass_the_usual_thresholds(brain):
    """LiteMedSAM learned one mask, from boxes: its three masks are noise, and none must be shown as found."""
    network = build_sam_lora("vit_t").eval()
    with np.load(brain / "test" / "icbm2009c.npz") as file:
        image = file["imgs"][96]
    assert AutomaticMaskGenerator(network, points_per_side=2).generate(image) == []
    loose = {"points_per_side": 2, "pred_iou_thresh": 0, "stability_score_thresh": 0, "box_nms_thresh": 1}
    records = AutomaticMaskGenerator(network, **loose).generate(image)
    assert records
    assert max(r["predicted_iou"] for r in records) < 0.5


def test_adapted_and_merged_networks_give_the_same_masks(small_lora):
    network = randomize_zeros(small_lora).eval()
    options = {"points_per_side": 2, "pred_iou_thresh": 0, "stability_score_thresh": 0, "box_nms_thresh": 1}
    merged = network.merged()
    image = pictures(64)["grey"]
    for multimask in (True, False):
        found, expected = (
            AutomaticMaskGenerator(n, **options, multimask=multimask).generate(image) for n in (network, merged)
        )
        assert 0 < len(found) == len(expected) <= 4 * (3 if multimask else 1)
        assert np.allclose([r["predicted_iou"] for r in found], [r["predicted_iou"] for r in expected], atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available() and not torch.backends.mps.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_masks(networks):
    image = pictures(NATIVE)["tall"]
    elsewhere = copy.deepcopy(networks[0]).to("cuda" if torch.cuda.is_available() else "mps")
    found, expected = (AutomaticMaskGenerator(n, **OPTIONS).generate(image) for n in (elsewhere, networks[0]))
    assert np.allclose([r["area"] for r in found], [r["area"] for r in expected], rtol=0.02)


def test_progress_is_shown_on_stderr_if_wanted(networks, capsys):
    generator = AutomaticMaskGenerator(networks[0], **OPTIONS | {"points_per_side": 2})
    generator.generate(pictures(NATIVE)["tall"])
    assert capsys.readouterr() == ("", "")
    generator.generate(pictures(NATIVE)["tall"], progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "4/4" in err


def test_smaller_masks_lie_over_larger_ones_in_the_map():
    small, large = np.zeros((6, 8), bool), np.zeros((6, 8), bool)
    small[2:4, 2:4], large[1:5, 1:7] = True, True
    records = [{"segmentation": mask, "area": int(mask.sum())} for mask in (small, large)]
    result = label_map(records, (6, 8))
    assert result.dtype == np.uint8
    assert np.array_equal(result, np.where(small, 1, np.where(large, 2, 0)))
    assert np.array_equal(label_map(records[::-1], (6, 8)), np.where(small, 2, np.where(large, 1, 0)))
    assert label_map(records * 128, (6, 8)).max() == 256
    with pytest.raises(ValueError, match=r"Mask 2 has shape \(6, 8\), the map \(8, 6\); they must be equal"):
        label_map(records, (8, 6))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"points_per_side": 0}, "points_per_side must be a whole number from 1, got 0"),
        ({"points_per_side": 2.5}, "points_per_side must be a whole number from 1, got 2.5"),
        ({"points_per_side": None}, "Either points_per_side or point_grids must be given .*, got neither"),
        ({"point_grids": [np.full((1, 2), 0.5)]}, "Either points_per_side or point_grids must be given .*, got both"),
        ({"points_per_side": None, "point_grids": []}, "must hold 1 grids, .*, got 0"),
        ({"points_per_side": None, "point_grids": [np.full((3, 2), 7.0)]}, r"grid 0 has shape \(3, 2\) and values from 7 to 7"),
        ({"points_per_side": None, "point_grids": [np.zeros((0, 2))]}, r"at least one point; grid 0 has shape \(0, 2\)"),
        ({"points_per_batch": 0}, "points_per_batch must be a whole number from 1, got 0"),
        ({"crop_n_layers": -1}, "crop_n_layers must be a whole number from 0, got -1"),
        ({"crop_n_layers": 2, "points_per_side": 3, "crop_n_points_downscale_factor": 2}, "leaves layer 2 without a point"),
        ({"min_mask_region_area": True}, "min_mask_region_area must be a whole number from 0, got True"),
        ({"pred_iou_thresh": 88}, "pred_iou_thresh must be a number from 0 to 1, got 88"),
        ({"stability_score_thresh": float("nan")}, "stability_score_thresh must be a number from 0 to 1, got nan"),
        ({"stability_score_offset": float("inf")}, "stability_score_offset must be a number from 0, got inf"),
        ({"box_nms_thresh": "0.7"}, "box_nms_thresh must be a number from 0 to 1, got '0.7'"),
        ({"output_mode": "png"}, "output_mode must be one of binary_mask, uncompressed_rle, coco_rle, got 'png'"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_meant_are_refused(toy_sam, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        AutomaticMaskGenerator(toy_sam, **options)


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (np.zeros((4, 4, 4), np.uint8), r"uint8 of shape \(4, 4, 4\)"),
        (np.zeros((4, 4), np.float32), r"float32 of shape \(4, 4\)"),
        (np.zeros((0, 4), np.uint8), r"uint8 of shape \(0, 4\)"),
        ("brain.png", "str"),
    ],
)
def test_what_is_no_image_is_refused(toy_sam, image, got):
    sentence = r"image must be a uint8 array \(H, W\) or \(H, W, 3\) with at least one pixel, got "
    with pytest.raises(ValueError, match=sentence + got):
        AutomaticMaskGenerator(toy_sam).generate(image)


def test_crops_without_a_pixel_and_training_mode_are_refused(toy_sam):
    image = np.zeros((5, 3), np.uint8)
    with pytest.raises(ValueError, match="crop_n_layers 2 is too much for an image of 5 x 3 pixels"):
        AutomaticMaskGenerator(toy_sam, crop_n_layers=2).generate(image)
    with pytest.raises(ValueError, match=r"The network is in training mode; .* call network.eval\(\)"):
        AutomaticMaskGenerator(toy_sam.train()).generate(image)


def test_coco_rle_without_pycocotools_is_refused_before_the_work(toy_sam, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ValueError, match="need the package pycocotools, which is not installed"):
        AutomaticMaskGenerator(toy_sam, output_mode="coco_rle")
