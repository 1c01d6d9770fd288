"""The interactive interface: parity with segment-anything's predictor, caches, adapters, and what is refused."""

import dataclasses

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from torch.nn import functional as F

from sam_lora.build import build_sam_lora
from sam_lora.embedding import Embedder
from sam_lora.predictor import Predictor
from sam_lora.prompts import PromptError
from sam_lora.reading import CaseError
from tests.conftest import phantom, randomize_zeros
from tests.sam_lora.networks.test_sam import difference, pair

POINTS = np.array([[60, 50], [200, 150], [110, 90]])
LABELS = np.array([1, 1, 0])
BOX = [40, 219, 30, 179]  # i0, i1, j0, j1, the ends included: 40, 30, 220, 180 in SAM's way


def picture(height, width):
    rng = np.random.RandomState(height)
    y, x = np.mgrid[:height, :width]
    smooth = 90 + 60 * np.sin(x / 25) * np.cos(y / 18)
    return (smooth[..., None] + rng.randint(0, 60, (height, width, 3))).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def both():
    """Both predictors on a picture of the network's own size (320 px), so that nothing is resized."""
    ours, theirs = pair("vit_b")
    mine, official = Predictor(ours), SamPredictor(theirs)
    mine.set_image(picture(240, 320))
    official.set_image(picture(240, 320))
    return mine, official


PROMPTS = {
    "points": ({"points": POINTS, "point_labels": LABELS}, {"point_coords": POINTS + 0.5, "point_labels": LABELS}),
    "box": ({"boxes": BOX}, {"box": np.array([40, 30, 220, 180])}),
    "mixed": ({"points": POINTS, "point_labels": LABELS, "boxes": BOX},
              {"point_coords": POINTS + 0.5, "point_labels": LABELS, "box": np.array([40, 30, 220, 180])}),
}  # fmt: skip


@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("with_mask", [False, True])
def test_predictions_equal_segment_anything(both, kind, multimask, with_mask):
    mine, official = both
    asked, official_asked = PROMPTS[kind]
    logits = torch.randn(1, 80, 80, generator=torch.Generator().manual_seed(1)) * 4
    mask, mask_input = (logits, logits.numpy()) if with_mask else (None, None)
    found = mine.predict(**asked, mask=mask, multimask=multimask)
    masks, iou, low_res = official.predict(**official_asked, mask_input=mask_input, multimask_output=multimask)
    assert found.masks.shape == (1, 3 if multimask else 1, 240, 320)
    assert difference(found.low_res_logits[0], torch.from_numpy(low_res)) < 1e-4
    assert difference(torch.from_numpy(found.iou[0]), torch.from_numpy(iou)) < 1e-4
    assert (found.masks[0] == masks).mean() > 0.9999
    assert 0 < masks.mean() < 1


def test_a_resized_picture_too(both):
    ours, official = both
    image = picture(150, 210)
    mine = Predictor(ours.embedder.network)
    mine.set_image(image)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    # its own apply_image_torch takes batch and channels for height and width in 1.0
    resized = F.interpolate(tensor, (229, 320), mode="bilinear", antialias=True, align_corners=False)
    official.set_torch_image(resized, image.shape[:2])
    found = mine.predict(points=[[60, 50]], boxes=[20, 99, 30, 119])
    masks, iou, low_res = official.predict(np.array([[60.5, 50.5]]), np.array([1]), np.array([20, 30, 100, 120]),
                                           multimask_output=False)  # fmt: skip
    assert difference(found.low_res_logits[0], torch.from_numpy(low_res)) < 1e-4
    assert difference(torch.from_numpy(found.iou[0]), torch.from_numpy(iou)) < 1e-4
    assert (found.masks[0] == masks).mean() > 0.9999
    official.set_image(picture(240, 320))  # the fixture's own again


def test_many_boxes_are_one_call_and_equal_one_by_one(both):
    mine, _ = both
    boxes = [BOX, [10, 99, 20, 89], [200, 310, 100, 230]]
    calls = []
    hook = mine.embedder.network.mask_decoder.register_forward_hook(lambda *_: calls.append(1))
    together = mine.predict(boxes=boxes)
    hook.remove()
    assert len(calls) == 1
    assert together.masks.shape == (3, 1, 240, 320)
    for n, box in enumerate(boxes):
        alone = mine.predict(boxes=box)
        assert difference(together.low_res_logits[n], alone.low_res_logits[0]) < 1e-5


def test_a_drawn_mask_prompts_like_its_logits(both):
    mine, _ = both
    drawn = np.zeros((240, 320), bool)
    drawn[60:160, 80:240] = True
    found = mine.predict(boxes=[80, 239, 60, 159], mask=drawn)
    logits = torch.full((80, 80), -8.0)
    logits[15:40, 20:60] = 8
    assert torch.equal(found.low_res_logits, mine.predict(boxes=[80, 239, 60, 159], mask=logits).low_res_logits)


def count(network, work):
    calls = []
    hook = network.image_encoder.register_forward_hook(lambda *_: calls.append(1))
    result = work()
    hook.remove()
    return len(calls), result


def test_a_second_click_calls_no_encoder_and_equals_the_uncached_answer_bit_for_bit(small_lora):
    volume = np.moveaxis(phantom()[0], (0, 1, 2), (2, 1, 0))
    mine = Predictor(small_lora)
    mine.set_volume(volume)
    assert count(small_lora, lambda: mine.predict(points=[[9, 6, 2]]))[0] == 1
    calls, second = count(small_lora, lambda: mine.predict(points=[[9, 6, 2], [30, 20, 2]], point_labels=[1, 0]))
    assert calls == 0
    assert (mine.embedder.cache.statistics.hits, mine.embedder.cache.statistics.misses) == (1, 1)
    fresh = Predictor(small_lora)
    fresh.set_volume(volume)
    calls, uncached = count(small_lora, lambda: fresh.predict(points=[[9, 6, 2], [30, 20, 2]], point_labels=[1, 0]))
    assert calls == 1
    assert torch.equal(second.low_res_logits, uncached.low_res_logits)
    assert np.array_equal(second.masks, uncached.masks)
    assert second.k == 2


def test_another_adapter_on_the_image_that_is_set(small_lora):
    base = small_lora.merged()
    randomize_zeros(small_lora)
    mine = Predictor(base)
    mine.set_image(picture(40, 50))
    before = mine.predict(boxes=[5, 30, 5, 30]).low_res_logits
    mine.use(small_lora)
    adapted = mine.predict(boxes=[5, 30, 5, 30]).low_res_logits
    assert difference(adapted, before) > 1e-3
    mine.use(small_lora.merged())
    assert difference(mine.predict(boxes=[5, 30, 5, 30]).low_res_logits, adapted) < 1e-4
    mine.use(base)
    assert torch.equal(mine.predict(boxes=[5, 30, 5, 30]).low_res_logits, before)


def test_networks_share_a_cache_without_seeing_each_others_embeddings(small_lora):
    base = Embedder(small_lora.merged())
    randomize_zeros(small_lora)
    adapted = Embedder(small_lora, base.cache)
    assert base.identity != adapted.identity
    mine = Predictor(base)
    mine.set_image(picture(40, 50))
    (one,) = base.embed(mine.volume, [0])
    (other,) = adapted.embed(mine.volume, [0])
    assert not torch.equal(one, other)
    assert base.cache.statistics.misses == 2


def test_batches_of_slices_equal_slices_one_by_one(small_lora):
    volume = np.moveaxis(phantom()[0], (0, 1, 2), (2, 1, 0))
    mine = Predictor(Embedder(small_lora, batch_size=3))
    mine.set_volume(volume)
    calls, batched = count(small_lora, lambda: mine.embedder.embed(mine.volume, [0, 1, 2, 3]))
    assert calls == 2
    single = Embedder(small_lora).embed(mine.volume, [0, 1, 2, 3])
    for one, other in zip(batched, single, strict=True):
        assert difference(one, other) < 1e-5
        assert one.untyped_storage().nbytes() == one.nbytes  # no part of a batch keeps all of it


def test_raw_images_pass_the_intensity_setting(small_lora):
    raw = np.moveaxis(phantom()[0], (0, 1, 2), (2, 1, 0)).astype(np.int16) * 7 - 300
    mine = Predictor(small_lora, intensity={"window": [40, 400]})
    mine.set_volume(raw)
    expected = np.clip((raw[:, :, 1].T.astype(float) + 160) / 400, 0, 1) * 255
    assert np.abs(mine.volume.slice(1)[0].numpy() - expected).max() <= 0.5
    with pytest.raises(CaseError, match="1 values that are NaN or infinite"):
        mine.set_image(np.where(np.eye(8) * np.arange(8) == 3, np.nan, 1.0))


def test_another_adapter_s_intensity_is_applied_to_the_image_that_is_set(small_lora):
    raw = np.moveaxis(phantom()[0], (0, 1, 2), (2, 1, 0)).astype(np.int16) * 7 - 300
    mine = Predictor(small_lora)
    mine.set_volume(raw)
    other = small_lora.merged()
    other.spec = dataclasses.replace(small_lora.spec, intensity={"window": [40.0, 400.0]})
    mine.use(other)
    fresh = Predictor(other)
    fresh.set_volume(raw)
    assert torch.equal(mine.volume.slice(1), fresh.volume.slice(1))


def test_two_networks_that_differ_in_alpha_alone_have_two_identities():
    torch.manual_seed(0)
    four = build_sam_lora(image_size=64, alpha=4)
    torch.manual_seed(0)
    sixteen = build_sam_lora(image_size=64, alpha=16)
    sixteen.load_state_dict(four.state_dict())
    other_size = build_sam_lora(image_size=128, alpha=4)
    other_size.load_state_dict(four.state_dict())
    assert len({Embedder(one).identity for one in (four, sixteen, other_size)}) == 3
    at_rest = Embedder(four).identity
    with torch.autocast("cpu", torch.bfloat16):
        assert Embedder(four).identity != at_rest


def test_an_array_that_changes_afterwards_changes_nothing(small_lora):
    array = np.moveaxis(phantom()[0], (0, 1, 2), (2, 1, 0)).copy()
    mine = Predictor(small_lora)
    mine.set_volume(array)
    before = mine.volume.slice(1).clone()
    array[:] = 0
    assert torch.equal(mine.volume.slice(1), before)


def test_a_background_click_corrects_a_previous_mask(asked):
    first = asked.predict(boxes=[8, 19, 5, 11, 2, 2])
    second = asked.predict(points=[[30, 20, 2]], point_labels=[0], mask=first.low_res_logits[:, 0])
    assert second.masks.shape == first.masks.shape
    assert not torch.equal(first.low_res_logits, second.low_res_logits)


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (128, 96), (30, 64)])
def test_segment_and_predict_agree_to_the_edges(size):
    ours, _ = pair("vit_b")  # a stride of 16: the frame is coarser than the slice
    mine = Predictor(ours)
    mine.set_image(picture(*size))
    box = [0, size[1] - 1, 0, size[0] - 1]
    predicted = mine.predict(boxes=box).masks[0, 0]
    segmented = mine.segment({"roi": box})[:, :, 0].T > 0
    assert (predicted == segmented).mean() > 0.999
    assert predicted[-1].any() or predicted[:, -1].any()


REFUSED = {
    "nothing": ({}, "Nothing is asked: give points, boxes, a mask or a label"),
    "outside": ({"points": [[40, 3, 0]]}, r"lies outside the volume of 40 x 30 x 4 voxels"),
    "nan": ({"points": [[np.nan, 3, 0]]}, "must be finite"),
    "two numbers": ({"points": [[3, 3]]}, "must have 3 numbers, i, j, k"),
    "one number": ({"points": 5}, r"points must have the shape \(N, 2\), .* got \(\)"),
    "words": ({"boxes": ["a", "b"]}, r"boxes must be an array of numbers"),
    "no points": ({"points": np.zeros((0, 3))}, r"got \(0, 3\)"),
    "short box": ({"boxes": [1, 2, 3]}, "must be i0, i1, j0, j1, k0, k1"),
    "several slices": ({"points": [[3, 3, 0], [3, 3, 2]]}, "these prompts lie on slices 0, 2: use segment"),
    "labels": ({"points": [[3, 3, 0]], "point_labels": [1, 0]}, "point_labels must hold one number per point"),
    "label": ({"points": [[3, 3, 0]], "point_labels": [2]}, "point_labels must be 1 for the object or 0"),
    "background only": ({"points": [[3, 3, 0]], "point_labels": [0]}, "neither foreground points nor a roi"),
    "counts": ({"points": [[3, 3, 0]], "boxes": [[0, 3, 0, 3, 0, 0]] * 2}, "points are of 1 objects and boxes of 2"),
    "mask without slice": ({"mask": np.zeros((30, 40), bool)}, "does not say its slice: give k, from 0 to 3"),
    "slice": ({"mask": np.zeros((30, 40), bool), "k": 4}, "k must be a slice, a whole number from 0 to 3, got 4"),
    "slice type": ({"mask": np.zeros((30, 40), bool), "k": "1"}, "a whole number from 0 to 3, got '1'"),
    "two slices": ({"points": [[3, 3, 0]], "k": 2}, "k is 2, and the prompts lie on slice 0"),
    "mask type": ({"mask": np.zeros((64, 64), np.uint8), "k": 0}, "mask must be bool .* or float .* got torch.uint8"),
    "mask shape": ({"boxes": [0, 3, 0, 3, 0, 0], "mask": np.zeros((3, 3))}, r"mask must have the shape \(1, 64, 64\)"),
    "mask nan": ({"boxes": [0, 3, 0, 3, 0, 0], "mask": np.full((64, 64), np.nan)}, "mask must be finite"),
}


@pytest.fixture(scope="module")
def asked():
    mine = Predictor(build_sam_lora(image_size=64))
    mine.set_volume(np.moveaxis(phantom()[0], (0, 1, 2), (2, 1, 0)))
    return mine


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_question_is_refused_with_a_sentence(asked, case):
    question, sentence = REFUSED[case]
    with pytest.raises(PromptError, match=sentence):
        asked.predict(**question)


def test_images_that_are_none_are_refused(asked, tmp_path):
    with pytest.raises(PromptError, match="There is no image yet: call set_image or set_volume first"):
        Predictor(asked.embedder).predict(points=[[1, 1]])
    for wrong in (np.zeros((3, 4, 5, 6)), np.zeros((4, 4, 2))):
        with pytest.raises(CaseError, match=r"An image must have the shape \(H, W\) or \(H, W, 3\)"):
            Predictor(asked.embedder).set_image(wrong)
    with pytest.raises(CaseError, match="The volume is empty"):
        Predictor(asked.embedder).set_volume(np.zeros((0, 3, 3)))
    with pytest.raises(CaseError, match=r"must have the shape \(I, J, K\)"):
        Predictor(asked.embedder).set_volume(np.zeros((3, 3, 3, 4)))
    with pytest.raises(CaseError, match="There is no .*nowhere.nii"):
        Predictor(asked.embedder).set_volume(tmp_path / "nowhere.nii")
    one = Predictor(asked.embedder, labels={1: "spleen"})
    one.set_volume(np.zeros((8, 8, 2), np.uint8))
    with pytest.raises(PromptError, match="asks for label 'liver'; known are spleen"):
        one.segment({"label": "liver", "foreground": [[1, 1, 1]]})


def test_a_volume_of_one_slice_is_an_image(asked):
    image = phantom()[0][1]
    first, second = Predictor(asked.embedder), Predictor(asked.embedder)
    first.set_image(image)
    second.set_volume(image.T[:, :, None])
    assert np.array_equal(first.predict(points=[[9, 6]]).masks, second.predict(points=[[9, 6, 0]]).masks)
    whole = first.segment({"foreground": [[9, 6]], "label": "a"}, propagated=True)
    assert whole.shape == (40, 30, 1)
