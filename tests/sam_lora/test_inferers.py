"""From an image file and requests to a label map on the image's own grid."""

import json
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from sam_lora.build import build_sam_lora
from sam_lora.cases import CaseError, to_uint8
from sam_lora.inferers import LoadCased, PromptInferer, inference_entries
from sam_lora.predictor import Predictor
from sam_lora.prompts import PromptError
from tests.conftest import phantom
from tests.sam_lora.test_cases import raw_phantom, write_nifti, write_npz

REQUESTS = [{"label": "bar", "roi": [8, 19, 5, 11, 2, 2]}, {"label": "block", "foreground": [[6, 20, 1]]}]
LABELS = {1: "bar", 2: "block"}


def segment(entry, network, labels=None, label=None):
    loaded = LoadCased()(entry)["image"]
    return PromptInferer(LABELS if labels is None else labels, label)(loaded[None], network)[0, 0]


@pytest.fixture
def network(small_lora):
    return small_lora.eval().requires_grad_(False)


def test_npz_and_nifti_of_one_case_give_equal_masks(tmp_path, network):
    raw, label = raw_phantom()
    image = to_uint8(raw, {"percentiles": [0.5, 99.5]})
    npz = segment({"image": write_npz(tmp_path / "c.npz", image, label)["image"], "prompts": REQUESTS}, network)
    nifti = segment({"image": write_nifti(tmp_path, raw, label)["image"], "prompts": REQUESTS}, network)
    assert npz.any()
    assert torch.equal(npz, nifti)


def test_prompts_reach_their_slices_and_others_stay_empty(tmp_path, network):
    image, label = phantom()
    mask = segment({"image": write_npz(tmp_path / "c.npz", image, label)["image"], "prompts": REQUESTS}, network)
    assert mask.shape == (40, 30, 4)  # i, j, k
    assert not mask[..., 0].any()
    assert not mask[..., 3].any()
    assert set(mask[..., 2].unique().tolist()) <= {0, 1}
    assert (mask[8:20, 5:12, 2] == 1).float().mean() > 0.5  # the bar the box was drawn around
    expected = network(
        torch.from_numpy(image[2]).float().expand(1, 3, -1, -1),
        torch.tensor([[[[8.0, 5], [20, 12]]]]),
        torch.tensor([[[2, 3]]]),
    )
    assert torch.equal(mask[..., 2].T == 1, expected[0, 0] > 0)


def test_a_monai_label_request_is_read_from_beside_the_image(tmp_path):
    path = write_npz(tmp_path / "c.npz", *phantom())["image"]
    loaded = LoadCased()({"image": path, "label": "bar", "foreground": [[9, 6, 2]], "background": [], "model": "x"})[
        "image"
    ]
    assert json.loads(loaded.meta["prompts"]) == {"label": "bar", "foreground": [[9, 6, 2]]}


def test_monai_label_finds_the_image_s_place_under_its_own_name(tmp_path):
    path = write_nifti(tmp_path, *raw_phantom())["image"]
    loaded = LoadCased()({"image": path})["image"]
    assert np.allclose(loaded.meta["original_affine"], nibabel.load(path).affine)


def test_without_prompts_every_slice_is_segmented_for_the_one_label(tmp_path, network):
    path = write_npz(tmp_path / "c.npz", *phantom())["image"]
    calls = []
    hook = network.image_encoder.register_forward_hook(lambda *_: calls.append(1))
    mask = segment({"image": path}, network, labels={5: "bar"})
    hook.remove()
    assert len(calls) == 4
    assert set(mask.unique().tolist()) <= {0, 5}
    with pytest.raises(PromptError, match="prompt_mode 'no' cannot tell 2 labels apart: bar, block"):
        segment({"image": path}, network)
    with pytest.raises(PromptError, match="There is no prompt: give `--prompts FILE.json`"):
        segment({"image": path}, network, labels={})
    assert set(segment({"image": path}, network, label="block").unique().tolist()) <= {0, 2}


@pytest.mark.parametrize("axis", [0, 2])
def test_everything_is_found_on_each_slice_by_itself(monkeypatch, axis):
    class Bright:
        """Finds what is brighter than 50 and what is brighter than 150, as a generator would."""

        def __init__(self, network):
            assert network is given

        def generate(self, image, progress):
            masks = [(image[..., 0] > least) for least in (50, 150)]
            return [{"segmentation": mask, "area": int(mask.sum())} for mask in masks if mask.any()]

    given = SimpleNamespace(neighbours=False)
    monkeypatch.setattr("sam_lora.inferers.AutomaticMaskGenerator", Bright)
    volume = np.zeros((6, 5, 4), np.uint8)
    volume[1:4, 1:3, 2], volume[2, 2, 2], volume[5, 4, 0] = 100, 200, 100
    found = PromptInferer(axis=axis, everything=True)(MetaTensor(torch.from_numpy(volume)[None, None]), given)
    assert torch.equal(found[0, 0] > 0, torch.from_numpy(volume > 0))
    assert found[0, 0, 2, 2, 2] != found[0, 0, 1, 1, 2] or axis == 0
    assert json.loads(found.meta["labels"][0]) == {}


def test_each_process_takes_its_share_of_the_test_cases(dataset_dir, monkeypatch):
    for n in (1, 2):
        np.savez(dataset_dir / "test" / f"more{n}.npz", imgs=np.zeros((1, 4, 4), np.uint8), gts=np.zeros((1, 4, 4)))
    monkeypatch.setenv("WORLD_SIZE", "2")
    shares = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        shares.append([entry["name"] for entry in inference_entries(dataset_dir=str(dataset_dir))])
    assert shares == [["test_case0", "more2"], ["more1"]]
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(CaseError, match="There are 4 processes for 3 test cases: start at most as many"):
        inference_entries(dataset_dir=str(dataset_dir))


def test_a_datalist_of_other_slices_is_not_segmented_along_the_wrong_ones(dataset_dir, tmp_path):
    content = {"axis": 1, "test": [{"image": "test/test_case0.npz"}]}
    (tmp_path / "list.json").write_text(json.dumps(content))
    options = {"dataset_dir": str(dataset_dir), "datalist": str(tmp_path / "list.json")}
    with pytest.raises(CaseError) as error:
        inference_entries(**options)
    assert str(error.value) == ("test_case0 has slices along axis 1 in the datalist: give `--axis 1`, not 2.")
    assert inference_entries(**options, axis=1)[0]["axis"] == 1


def test_wrong_requests_are_refused(tmp_path, network):
    path = write_npz(tmp_path / "c.npz", *phantom())["image"]
    with pytest.raises(PromptError, match="outside the volume of 40 x 30 x 4 voxels"):
        segment({"image": path, "prompts": [{"label": "bar", "foreground": [[40, 0, 0]]}]}, network)
    with pytest.raises(PromptError, match="one at a time, got a batch of 2"):
        PromptInferer()(MetaTensor(torch.zeros(2, 1, 4, 4, 1)), network)


def test_entries_come_from_one_image_or_from_the_test_cases(tmp_path, dataset_dir):
    prompts = tmp_path / "p.json"
    prompts.write_text(json.dumps(REQUESTS))
    assert inference_entries("a.nii", str(prompts)) == [{"image": "a.nii", "prompts": REQUESTS, "mask": None}]
    (entry,) = inference_entries(dataset_dir=str(dataset_dir))
    assert entry["image"].endswith("test/case0.npz")
    assert entry["name"] == "test_case0"  # there is a train/case0 too
    prompts.write_text("{")
    with pytest.raises(
        CaseError, match="There is no test case in a dataset_dir, none is given; `--image FILE` segments"
    ):
        inference_entries()
    with pytest.raises(PromptError, match="The prompts file .*p.json cannot be read as JSON"):
        inference_entries("a.nii", str(prompts))


def test_colour_pictures(tmp_path, network):
    from PIL import Image

    Image.fromarray(np.random.RandomState(0).randint(0, 255, (33, 21, 3), np.uint8)).save(tmp_path / "p.png")
    mask = segment({"image": str(tmp_path / "p.png"), "prompts": [{"roi": [2, 15, 4, 30]}]}, network, labels={})
    assert mask.shape == (21, 33, 1)


@pytest.fixture
def token_network():
    torch.manual_seed(0)
    network = build_sam_lora(image_size=64, labels=LABELS, tokens=True).eval().requires_grad_(False)
    network.prompt_encoder.label_tokens.weight[2:].normal_(0, 1)  # the two labels' answers differ
    return network


def test_without_prompts_every_label_with_tokens_is_segmented(tmp_path, token_network):
    image, label = phantom()
    entry = {"image": write_npz(tmp_path / "c.npz", image, label)["image"]}
    both = segment(entry, token_network)
    assert both.any()
    logits = [
        token_network(torch.from_numpy(image[k]).float().expand(1, 3, -1, -1), torch.zeros(1, 2, 2, 2),
                      torch.tensor([[[4, 5], [6, 7]]]))[0] for k in range(len(image))
    ]  # fmt: skip
    for k, found in enumerate(logits):
        highest, which = found.max(0)
        certain = (highest.abs() > 0.05) & ((found[0] - found[1]).abs() > 0.05)  # logits travel as float16
        expected = torch.where(highest > 0, which + 1, 0)
        assert torch.equal(both[..., k].T[certain].long(), expected[certain])
    block = segment(entry, token_network, label="block")
    assert set(block.unique().tolist()) <= {0, 2}
    merged = segment(entry, token_network.merged(), label="block")
    assert (merged == block).float().mean() > 0.999


def test_a_label_in_predict_is_its_tokens_and_clicks_correct_it(token_network):
    image, _ = phantom()
    predictor = Predictor(token_network)
    predictor.set_volume(np.moveaxis(image, 0, 2).swapaxes(0, 1))
    alone = predictor.predict(label="block", k=1)
    shown = torch.from_numpy(image[1]).float().expand(1, 3, -1, -1)
    expected = token_network(shown, torch.zeros(1, 1, 2, 2), torch.tensor([[[6, 7]]]))[0, 0]
    assert np.array_equal(alone.masks[0, 0], expected.numpy() > 0)
    clicked = predictor.predict(points=[[6, 20, 1]], point_labels=[0], label="block")  # a background click alone
    points = torch.tensor([[[[0.0, 0], [0, 0], [6.5, 20.5]]]])
    expected = token_network(shown, points, torch.tensor([[[6, 7, 0]]]))[0, 0]
    assert np.array_equal(clicked.masks[0, 0], expected.numpy() > 0)
    with pytest.raises(PromptError, match="A label alone does not say its slice: give k, from 0 to 3"):
        predictor.predict(label="block")
    with pytest.raises(CaseError, match="label must be one of bar, block, got 'lung'"):
        predictor.predict(label="lung", k=0)
    plain = Predictor(build_sam_lora(image_size=64, labels=LABELS))
    plain.set_volume(image)
    with pytest.raises(PromptError, match="label 'bar' has no tokens in this network: give points, boxes or a mask"):
        plain.predict(label="bar", k=0)
