"""Laws of propagation, on a network that is known: it segments what is bright around its prompts."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sam_lora.cache import TensorCache
from sam_lora.drawn import read_drawn
from sam_lora.embedding import Embedder
from sam_lora.networks import Sam
from sam_lora.networks.image_encoder import ImageEncoder
from sam_lora.propagation import Propagation, PropagationRules, blended
from sam_lora.requests import read_requests
from sam_lora.segmentation import segment
from sam_lora.volumes import Volume

BRIGHT, DIM = 220, 140


class BrightSam(Sam):
    """Segments pixels as bright as what the prompts hit, inside the box where there is one; counts its work."""

    def __init__(self):
        super().__init__(ImageEncoder(8, 1, 1, (0,), native_size=64, patch_size=4, window_size=0), 64, "mean_std")
        self.encoded, self.decoded = 0, []
        self.iou = 0.95

    def encode(self, image):
        self.encoded += len(image)
        size = self.resized(image.shape[-2:])
        grey = F.interpolate(image[:, :1], size=size, mode="bilinear", align_corners=False) / 255
        grey = F.pad(grey, (0, 64 - size[1], 0, 64 - size[0]))
        cells = F.pixel_unshuffle(grey, 4)  # a cell knows its sixteen pixels
        mean = cells.mean(1, keepdim=True)
        return torch.cat([cells, mean > 0.3, mean > 0.7], 1)

    def decode(self, embedding, points, point_labels, size, mask=None, multimask=False):
        self.decoded.append(points.shape[1])
        grey = F.pixel_shuffle(embedding[:, :16], 4)[0, 0]
        height, width = self.resized(size)
        logits = []
        for xy, labels in zip(points[0], point_labels[0], strict=True):
            xy = (xy * torch.tensor([width / size[1], height / size[0]])).int()
            inside = torch.zeros(64, 64, dtype=torch.bool)
            corners = xy[labels >= 2]
            if len(corners):
                (x0, y0), (x1, y1) = corners.tolist()
                inside[y0:y1, x0:x1] = True
                wanted = grey[inside].max()
            else:
                inside[:] = True
                x, y = xy[labels == 1][0].tolist()
                wanted = grey[y, x]
            same = (grey - wanted).abs() < 0.1
            logits.append(torch.where(same & inside & (grey > 0.3), 5.0, -5.0))
        return torch.stack(logits)[None, :, None], torch.full((1, len(logits), 1), self.iou)


def tube(first=6, last=20, shape=(48, 40, 26), shift=0.5, value=BRIGHT):
    """A disc that drifts through slices ``first`` to ``last``, and its mask."""
    i, j = np.mgrid[: shape[0], : shape[1]]
    image, label = np.full(shape, 30, np.uint8), np.zeros(shape, np.uint8)
    for k in range(first, last + 1):
        disc = (i - 18 - shift * (k - first)) ** 2 + (j - 20) ** 2 < 49
        image[:, :, k][disc], label[:, :, k][disc] = value, 1
    return image, label


def box_on(label, k, value=1, name="a"):
    i, j = np.nonzero(label[:, :, k] == value)
    return {"label": name, "roi": [int(v) for v in (i.min(), i.max(), j.min(), j.max(), k, k)]}


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def run(image, requests, network=None, axis=2, embedder=None, **options):
    embedder = embedder or Embedder(network or BrightSam())
    volume = Volume(image, axis)
    return segment(embedder, volume, read_requests(requests, volume.shape, {}, axis), True, **options)


@pytest.mark.parametrize("start", [6, 13, 20])
def test_a_whole_object_comes_from_one_slice_and_ends_where_it_ends(start):
    image, label = tube()
    found = run(image, box_on(label, start))
    assert dice(found == 1, label == 1) > 0.93
    assert np.array_equal(np.unique(np.nonzero(found)[2]), np.arange(6, 21))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_axis_gives_the_same_object(axis):
    image, label = tube()
    expected = run(image, box_on(label, 13))
    order = {0: (2, 0, 1), 1: (0, 2, 1), 2: (0, 1, 2)}[axis]  # where (i, j, k) of the array above went
    turned = np.transpose(image, order)
    roi = np.reshape(box_on(label, 13)["roi"], (3, 2))[list(order)].flatten().tolist()
    assert np.array_equal(run(turned, {"label": "a", "roi": roi}, axis=axis), np.transpose(expected, order))


def test_a_thick_box_bounds_and_a_flat_one_does_not():
    image, label = tube()
    request = box_on(label, 13)
    request["roi"][4:] = [10, 16]
    assert np.unique(np.nonzero(run(image, request))[2]).tolist() == list(range(10, 17))
    assert len(np.unique(np.nonzero(run(image, box_on(label, 13)))[2])) == 15


def test_without_propagation_only_prompted_slices_are_segmented():
    image, label = tube()
    volume = Volume(image)
    objects = read_requests([box_on(label, 8), box_on(label, 15)], volume.shape, {})
    found = segment(Embedder(BrightSam()), volume, objects)
    assert np.unique(np.nonzero(found)[2]).tolist() == [8, 15]


def leaking():
    """A tube that ends at slice 20; from slice 16 on a neighbour as bright touches it and goes on to the end."""
    image, label = tube()
    image[30:40, 12:30, 16:] = BRIGHT
    return image, label


def test_a_background_click_on_another_slice_is_honoured_and_changes_what_comes_after():
    image, label = leaking()
    loose = run(image, box_on(label, 8))
    assert loose[36, 15:25, 21:].any()  # it leaks
    clicked = run(image, {**box_on(label, 8), "background": [[36, 20, 22]]})
    assert not clicked[:, :, 22:].any()
    assert np.array_equal(clicked[:, :, :22], loose[:, :, :22])


def test_after_a_correction_only_changed_slices_are_decoded_again():
    image, label = leaking()
    network = BrightSam()
    embedder = Embedder(network)
    run(image, box_on(label, 8), embedder=embedder)
    encoded, decoded = network.encoded, len(network.decoded)
    assert encoded == len({Volume(image).digest(k) for k in range(5, 26)})  # each slice once, equal ones together
    run(image, box_on(label, 8), embedder=embedder)
    assert (network.encoded, len(network.decoded)) == (encoded, decoded)  # nothing changed
    request = {**box_on(label, 8), "background": [[36, 20, 22]]}
    corrected = run(image, request, embedder=embedder)
    assert len(network.decoded) == decoded + 1  # slice 22 alone: the chain ends there
    assert network.encoded == encoded
    assert np.array_equal(corrected, run(image, request))
    taken_back = run(image, box_on(label, 8), embedder=embedder)  # a point that is gone takes its effect with it
    assert np.array_equal(taken_back, run(image, box_on(label, 8)))


def test_a_second_prompted_slice_ends_the_chain_that_comes_to_it_and_both_blend():
    image, label = tube()
    network = BrightSam()
    embedder = Embedder(network)
    run(image, box_on(label, 8), embedder=embedder)
    before = len(network.decoded)
    one_object = {"label": "a", "roi": [box_on(label, 8)["roi"], box_on(label, 18)["roi"]]}
    joined = run(image, one_object, embedder=embedder)
    assert dice(joined == 1, label == 1) > 0.93
    assert np.array_equal(np.unique(np.nonzero(joined)[2]), np.arange(6, 21))
    assert len(network.decoded) > before
    up, down = {1: torch.zeros(2), 2: torch.zeros(2), 5: torch.zeros(2)}, {2: torch.ones(2), 5: torch.ones(2)}
    mixed = blended([1, 5], up, down)
    assert mixed[2].tolist() == [0.25, 0.25]  # three steps from slice 5, one from slice 1


def test_several_objects_are_one_pass():
    image, label = tube()
    other, other_label = tube(first=9, last=23, shift=0.0, value=DIM)
    image = np.concatenate([image, other])
    label = np.concatenate([label, 2 * other_label])
    network = BrightSam()
    requests = [box_on(label, 13, 1, "a"), box_on(label, 15, 2, "b")]
    found = run(image, requests, network)
    assert dice(found == 1, label == 1) > 0.9
    assert dice(found == 2, label == 2) > 0.9
    assert network.encoded == len({Volume(image).digest(k) for k in range(5, 25)})
    assert max(network.decoded) == 2  # both in one call
    for request in requests:  # and each as if it were alone
        alone = run(image, request) > 0
        assert dice(found == (1 if request["label"] == "a" else 2), alone) > 0.99


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("cache_bytes", [0, 40_000, 1 << 28])
def test_the_answer_depends_on_no_cache_and_no_batch(batch_size, cache_bytes):
    image, label = leaking()
    network = BrightSam()
    embedder = Embedder(network, TensorCache(cache_bytes), batch_size)
    assert np.array_equal(run(image, box_on(label, 8), embedder=embedder), run(image, box_on(label, 8)))
    assert embedder.cache.statistics.bytes <= cache_bytes


def test_progress_is_told_and_stopping_loses_nothing():
    image, label = tube()
    told = []
    whole = run(image, box_on(label, 13), on_slice=lambda done, total: told.append((done, total)))
    assert told == [(n, 53) for n in range(1, 54)]  # the prompted slice, 26 up, 26 down

    def stop(done, total):
        if done == 20:
            raise KeyboardInterrupt

    network = BrightSam()
    embedder = Embedder(network)
    with pytest.raises(KeyboardInterrupt):
        run(image, box_on(label, 13), embedder=embedder, on_slice=stop)
    encoded = network.encoded
    assert 0 < encoded < 17
    assert np.array_equal(run(image, box_on(label, 13), embedder=embedder), whole)


def test_a_drawn_slice_grows_into_the_object():
    image, label = tube()
    drawn = np.where(np.arange(26) == 13, label, 0)
    volume = Volume(image)
    found = segment(Embedder(BrightSam()), volume, read_drawn(drawn, {}), propagated=True)
    assert dice(found == 1, label == 1) > 0.93


RULES = {
    "confidence": ({"min_confidence": 0.96}, 1),
    "overlap": ({"min_overlap": 0.99}, 1),
    "size": ({"max_change": 1.0001}, 3),
    "area": ({"min_area": 1000}, 1),
    "patience": ({"trust": 2.0, "patience": 3}, 7),
}


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_ends_a_chain(rule):
    image, label = tube()
    options, most = RULES[rule]
    found = run(image, box_on(label, 13), rules=PropagationRules(**options))
    slices = np.unique(np.nonzero(found)[2])
    assert 13 in slices
    assert len(slices) <= most < 15


def test_a_prompt_that_finds_nothing_gives_an_empty_slice_and_no_chain():
    image, label = tube()
    found = run(image, {"label": "a", "roi": [0, 3, 0, 3, 13, 13]})
    assert not found.any()
    one = Volume(image[:, :, 13:14])
    masks = Propagation(Embedder(BrightSam()), one, read_requests(box_on(label[:, :, 13:14], 0), one.shape, {}))
    assert list(masks.whole_objects()[0]) == [0]  # a volume of one slice


def test_a_step_is_known_by_its_rules_and_a_seed_by_its_drawn_mask():
    image, label = tube()
    embedder = Embedder(BrightSam())
    run(image, box_on(label, 13), embedder=embedder)
    strict = PropagationRules(max_move=0.001)
    assert np.array_equal(run(image, box_on(label, 13), embedder=embedder, rules=strict),
                          run(image, box_on(label, 13), rules=strict))  # fmt: skip
    keys = []
    for count in (30, 31):
        drawn = np.zeros(image.shape, np.uint8)
        drawn[10:20, 10:13, 13] = drawn[:count, 10, 13] = drawn[18, 10:30, 13] = 1
        drawn[0, 0, 13] = drawn[47, 39, 13] = 1  # the boxes are the same
        propagation = Propagation(embedder, Volume(image), read_drawn(drawn, {}))
        keys.append(propagation._seeds(lambda: None)[0][13].key)
    assert keys[0] != keys[1]


class Listening(BrightSam):
    """Finds nothing where it is given a background click; only the decoder can honour it."""

    def decode(self, embedding, points, point_labels, size, mask=None, multimask=False):
        logits, iou = super().decode(embedding, points, point_labels, size, mask, multimask)
        return torch.where((point_labels == 0).any(-1)[:, :, None, None, None], -5.0, logits), iou


def test_the_network_is_told_of_background_clicks():
    image, label = tube()
    elsewhere = {
        **box_on(label, 8),
        "background": [[45, 2, 12]],
    }  # hits nothing, so that only the network can act on it
    assert np.unique(np.nonzero(run(image, elsewhere, Listening()))[2]).tolist() == list(range(6, 12))


def test_what_is_far_or_apart_does_not_join():
    image, label = tube()
    image[36:46, 2:12, 9:] = BRIGHT  # as bright, and apart
    found = run(image, box_on(label, 8))
    assert dice(found == 1, label == 1) > 0.93
    assert not found[36:46, 2:12, 9:20].any()
    jump = np.full((48, 40, 4), 30, np.uint8)
    jump[4:14, 4:14, :2] = jump[24:34, 4:14, 2:] = BRIGHT  # two discs' width away from one slice to the next
    request = {"label": "a", "roi": [4, 13, 4, 13, 0, 0]}
    assert np.unique(np.nonzero(run(jump, request))[2]).tolist() == [0, 1]


def test_slices_are_encoded_in_batches_and_only_as_far_as_bounds_reach():
    image, label = tube()
    network, batches = BrightSam(), []
    encode = network.encode
    network.encode = lambda images: (batches.append(len(images)), encode(images))[1]
    request = box_on(label, 13)
    request["roi"][4:] = [8, 18]
    run(image, request, embedder=Embedder(network, batch_size=4))
    assert batches == [1, 4, 1, 4, 1]  # slice 13; 14 to 18 up; 12 to 8 down
