"""Slices as samples: which, in which order, with which randomness, and in batches."""

import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandAdjustContrastd

from sam_lora.cases import CaseError
from sam_lora.datalist import label_value, load_datalist
from sam_lora.datasets import SliceDataset, collate_slices
from sam_lora.losses import PerObjectLoss
from sam_lora.prompts import PromptError
from sam_lora.transforms import RandPromptsd, SplitObjectsd
from tests.conftest import phantom


def transform(mode="pt_box", jitter=0.2, min_pixels=1):
    return Compose([SplitObjectsd(min_pixels=min_pixels), RandPromptsd(mode=mode, jitter=jitter)])


def dataset(folder, section="training", **options):
    return SliceDataset(load_datalist(str(folder))[section], options.pop("transform", transform()), **options)


def test_every_slice_with_an_object_is_a_sample_with_all_its_objects(dataset_dir):
    slices = dataset(dataset_dir)
    assert slices.places == [(c, k) for c in range(2) for k in range(4)]
    assert slices.present == [1, 2]
    sample = slices[1]
    image, label = phantom(seed=20)
    assert sample["image"].shape == (3, 30, 40)
    assert np.array_equal(sample["image"][0], image[1])
    assert sample["values"].tolist() == [1, 2]
    assert np.array_equal(sample["label"][1], label[1] == 2)
    assert sample["points"].shape == (2, 3, 2)
    assert slices[0]["values"].tolist() == [1]  # slice 0 has no block


def test_small_objects_and_other_labels_are_left_out(dataset_dir):
    large = dataset(dataset_dir, min_pixels=60, transform=transform(min_pixels=60))
    assert large[1]["values"].tolist() == [1]
    block = dataset(dataset_dir, label="block", labels={1: "bar", 2: "block"})
    assert block.places == [(c, k) for c in range(2) for k in range(1, 4)]
    assert block[0]["values"].tolist() == [2]
    assert len(dataset(dataset_dir, every=3)) == 3


def test_a_sample_follows_from_seed_epoch_and_place_alone(dataset_dir):
    slices, length = dataset(dataset_dir, seed=3), 8
    first = slices[5]["points"]
    slices[2], slices[7]
    assert torch.equal(slices[5]["points"], first)
    assert torch.equal(dataset(dataset_dir, seed=3)[5]["points"], first)
    assert not torch.equal(slices[5 + length]["points"], first)  # the next epoch
    assert not torch.equal(dataset(dataset_dir, seed=4)[5]["points"], first)


def test_altered_versions_come_again_with_other_prompts(dataset_dir):
    altering = Compose([RandAdjustContrastd("image", prob=1.0, gamma=(0.5, 2.0)), *transform().transforms])
    slices, length = dataset(dataset_dir, transform=altering, versions=2), 8
    first, second, third = (slices[5 + epoch * length] for epoch in range(3))
    assert torch.equal(first["image"], third["image"])
    assert not torch.equal(first["image"], second["image"])
    assert not torch.equal(first["points"], third["points"])
    anew = dataset(dataset_dir, transform=altering)
    assert not torch.equal(anew[5]["image"], anew[5 + 2 * length]["image"])


def test_workers_change_nothing(dataset_dir):
    slices = dataset(dataset_dir)
    loaders = [torch.utils.data.DataLoader(slices, collate_fn=collate_slices, num_workers=n) for n in (0, 2)]
    for a, b in zip(*loaders, strict=True):
        assert torch.equal(a["points"], b["points"])


def test_a_batch_pads_points_and_objects_and_the_loss_leaves_them_out(dataset_dir):
    slices = dataset(dataset_dir, transform=transform("mix"))
    batch = collate_slices([slices[0], slices[1]])
    assert batch["label"].shape == (2, 2, 30, 40)
    assert (batch["label"][0, 1] == -1).all()
    assert (batch["point_labels"][0, 1] == -2).all()
    logits = torch.randn(2, 2, 30, 40)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    answer = {"logits": logits[:, :, None], "iou": torch.zeros(2, 2, 1)}
    expected = (bce(logits[0, 0], batch["label"][0, 0]) + bce(logits[1], batch["label"][1])) / 2  # images weigh alike
    assert torch.isclose(PerObjectLoss(torch.nn.BCEWithLogitsLoss())(answer, batch["label"]), expected)


def test_slices_of_different_sizes_share_no_batch(dataset_dir):
    sample = dataset(dataset_dir)[0]
    other = {**sample, "image": sample["image"][:, :20], "label": sample["label"][:, :20]}
    with pytest.raises(
        CaseError, match="batch_size 2 needs slices of one size, these are 20 x 40, 30 x 40 pixels: use"
    ):
        collate_slices([sample, other])


def test_empty_masks_and_missing_labels_are_refused(tmp_path):
    image, label = phantom()
    np.savez(tmp_path / "empty.npz", imgs=image, gts=label * 0)
    entry = {"image": str(tmp_path / "empty.npz"), "label": str(tmp_path / "empty.npz")}
    with pytest.raises(CaseError, match="None of the 1 cases has an object of at least 1 pixels: the masks are empty"):
        SliceDataset([entry])
    with pytest.raises(CaseError, match="empty.npz has no label; training and evaluation need one"):
        SliceDataset([{"image": entry["image"]}])
    assert len(SliceDataset([])) == 0


def test_no_prompt_with_several_labels_is_refused_unless_one_is_chosen(dataset_dir):
    labels = {1: "bar", 2: "block"}
    with pytest.raises(PromptError, match="prompt_mode 'no' cannot tell 2 labels apart: bar, block"):
        dataset(dataset_dir, prompt_mode="no", labels=labels)
    assert len(dataset(dataset_dir, prompt_mode="no", labels=labels, label="bar")) == 8


def test_a_label_is_known_by_name_or_value():
    labels = {3: "spleen"}
    assert [label_value(x, labels) for x in ("spleen", 3, "3", None, "")] == [3, 3, 3, None, None]
    assert label_value("7", {}) == 7
    with pytest.raises(CaseError, match="label must be one of spleen, got 'liver'"):
        label_value("liver", labels)


def test_forgotten_cases_are_read_again(dataset_dir):
    slices = dataset(dataset_dir, cache_bytes=1)
    assert np.array_equal(slices[0]["image"], dataset(dataset_dir)[0]["image"])


def test_negative_jitter_is_refused():
    with pytest.raises(ValueError, match=r"box_jitter must be at least 0, got -0.1"):
        RandPromptsd(jitter=-0.1)


def test_a_slice_without_a_large_enough_object_is_refused():
    with pytest.raises(CaseError, match="slice 4 has no object of at least 10 pixels"):
        SplitObjectsd(min_pixels=10)({"label": np.eye(5, dtype=int), "name": "slice 4"})


def test_labels_that_may_be_absent_are_objects_of_every_slice(dataset_dir):
    slices = dataset(dataset_dir, absent=[1, 2], labels={1: "bar", 2: "block"}, transform=token_transform())
    assert slices.places == [(c, k) for c in range(2) for k in range(4)]
    sample = slices[0]  # holds no block
    assert sample["values"].tolist() == [1, 2]
    assert sample["label"][0].any() and not sample["label"][1].any()  # noqa: PT018
    assert sample["point_labels"][1].tolist() == [6, 7]  # the second label's tokens
    chosen = dataset(
        dataset_dir, absent=[1, 2], labels={1: "bar", 2: "block"}, label="block", transform=token_transform()
    )
    assert chosen[0]["values"].tolist() == [2]  # nobody asks for the other one, which was blanked out


def token_transform():
    return Compose([SplitObjectsd(), RandPromptsd(mode="token", tokens=[1, 2])])


def test_neighbours_are_the_outer_channels(dataset_dir):
    image, _ = phantom(seed=20)
    sample = dataset(dataset_dir, neighbours=True)[1]
    assert np.array_equal(sample["image"], image[:3])
    first = dataset(dataset_dir, neighbours=True)[0]["image"]
    assert np.array_equal(first, image[[0, 0, 1]])


def test_an_object_that_was_moved_out_of_the_picture_does_not_count_unless_its_label_has_tokens():
    label = torch.zeros(2, 8, 8)
    label[0, 2:5, 2:5] = 1
    sample = {"label": label, "values": torch.tensor([1, 2])}
    lost = RandPromptsd(mode="box")(sample)
    assert lost["point_labels"].tolist() == [[2, 3], [-2, -2]]
    assert (lost["label"][1] == -1).all()
    assert torch.equal(lost["label"][0], label[0])
    absent = RandPromptsd(mode="box", tokens=[1, 2])(sample)
    assert absent["point_labels"].tolist() == [[2, 3], [6, 7]]
    assert torch.equal(absent["label"], label)


def test_by_parts_a_click_or_box_is_about_one_connected_part_and_tokens_about_the_whole_label():
    label = torch.zeros(2, 16, 16)
    label[0, 2:5, 2:5], label[0, 8:12, 9:14], label[1, 12:16, 0:4] = 1, 1, 1
    sample = {"label": label, "values": torch.tensor([1, 2])}
    boxes = RandPromptsd(mode="box", min_part=4)(sample)
    assert boxes["values"].tolist() == [1, 1, 2]
    assert boxes["points"].tolist() == [[[2, 2], [5, 5]], [[9, 8], [14, 12]], [[0, 12], [4, 16]]]
    assert torch.equal(boxes["label"][:2].sum(0), label[0])
    mixed = RandPromptsd(mode="mix", tokens=[1, 2], min_part=4)(sample)
    assert mixed["values"].tolist() == [1, 2, 1, 1, 2]
    assert torch.equal(mixed["label"][:2], label)
    assert torch.equal(mixed["label"][2:], boxes["label"])
    for mode in ("token", "full_box", "no"):
        whole = RandPromptsd(mode=mode, tokens=[1, 2], min_part=4)(sample)
        assert torch.equal(whole["label"], label)


def test_mix_asks_for_an_object_by_its_tokens_and_once_more_as_a_person_would(dataset_dir):
    both = Compose([SplitObjectsd(), RandPromptsd(mode="mix", tokens=[1, 2])])
    sample = dataset(dataset_dir, transform=both, absent=[1, 2])[0]  # without label 2
    assert sample["values"].tolist() == [1, 2, 1]
    assert sample["point_labels"][:2, :2].tolist() == [[4, 5], [6, 7]]
    assert set(sample["point_labels"][2].tolist()) <= {-2, 1, 2, 3}
    assert torch.equal(sample["label"][2], sample["label"][0])
    assert sample["label"][0].any()
    assert not sample["label"][1].any()
    other = dataset(dataset_dir, transform=Compose([SplitObjectsd(), RandPromptsd(mode="mix", tokens=[2])]))[0]
    assert other["values"].tolist() == [1]  # without tokens there is nothing to ask twice
