"""From a client's request to a file: prompted and automatic segmentation through the service."""

import threading
import time
from pathlib import Path

import itk
import nibabel
import numpy as np
import pytest
import torch

from monailabel_app.lib.infers.automatic import Automatic
from monailabel_app.lib.infers.prompted import Prompted
from monailabel_app.lib.service import ClientGoneError, Service
from sam_lora.cases import write_nifti
from sam_lora.prompts import PromptError
from sam_lora.volumes import Volume
from tests.conftest import write_champion

NAMES = {1: "spleen", 2: "liver"}
SHAPE = (40, 30, 12)
# LPS and RAS axes, and an oblique grid of unequal voxels
GRIDS = {
    "ras": np.diag([1.5, 1.5, 4, 1]),
    "lps": np.diag([-1.0, -1.0, 2.0, 1]),
    "oblique": np.array([[0.6, -0.3, 0.1, 5], [0.3, 0.6, -0.2, -8], [0.1, 0.2, 3, 30], [0, 0, 0, 1]]),
}


def volume():
    """A bright ellipsoid in noise, at i 25, j 12, k 6."""
    rng = np.random.RandomState(0)
    i, j, k = np.indices(SHAPE)
    inside = ((i - 25) / 9) ** 2 + ((j - 12) / 7) ** 2 + ((k - 6) / 4) ** 2 < 1
    return (rng.rand(*SHAPE) * 60 + 150 * inside).astype(np.float32), inside


@pytest.fixture
def image(tmp_path):
    return write_nifti(tmp_path / "image.nii.gz", volume()[0], GRIDS["lps"])


@pytest.fixture
def service(tmp_path):
    (tmp_path / "adapters").mkdir()
    write_champion(tmp_path / "adapters", "random")
    return Service(tmp_path / "adapters")


@pytest.fixture
def prompted(service):
    return Prompted(service, lambda: NAMES)


BOX = [17, 33, 6, 18, 6, 6]


def answer(task, image, **request):
    """The mask in voxels of the image, and params."""
    path, params = task({"image": str(image), **request})
    array = (
        itk.array_from_image(itk.imread(path)).transpose() if path.endswith(".nrrd") else nibabel.load(path).get_fdata()
    )
    return array, params


def test_a_box_gives_the_object_on_its_slice(prompted, image):
    mask, params = answer(prompted, image, roi=BOX, label="liver")
    assert set(np.unique(mask)) == {0, 1}  # 1, whatever the label's own value is
    assert {int(k) for k in np.nonzero(mask.any((0, 1)))[0]} == {6}
    assert params["label_names"] == {"liver": 1}
    assert params["adapter"] == "random"
    assert params["adapter_digest"].startswith("sha256:")
    assert params["confidence"].keys() == {"6"}
    assert {"image", "wait", "network", "mask", "write", "total"} == params["latencies"].keys()


def test_slicers_boxes_are_unsorted_and_leave_the_volume(prompted, image):
    sorted_, _ = answer(prompted, image, roi=[17, 39, 6, 18, 6, 6], label="liver")
    unsorted, _ = answer(prompted, image, roi=[90, 17, 18, 6, 6, 6], label="liver")
    assert (sorted_ == unsorted).all()
    assert sorted_.any()


@pytest.mark.parametrize("grid", GRIDS)
def test_masks_lie_on_the_clicked_voxels_in_the_image_s_place(prompted, tmp_path, grid):
    image = write_nifti(tmp_path / f"{grid}.nii.gz", volume()[0], GRIDS[grid])
    path, _ = prompted({"image": str(image), "roi": BOX, "label": "liver"})
    mask = itk.imread(path)
    voxels = np.argwhere(itk.array_from_image(mask).transpose())
    middle = voxels.mean(0)
    assert np.linalg.norm(middle - [25, 12, 6]) < 3
    voxel = [int(n) for n in middle.round()]
    place = np.array(mask.TransformIndexToPhysicalPoint(voxel))
    lps = np.diag([-1, -1, 1, 1]) @ GRIDS[grid] @ [*voxel, 1]
    assert np.allclose(place, lps[:3], atol=0.2)


@pytest.mark.parametrize("axis", [0, 1])
def test_another_slice_axis_segments_its_own_slices(prompted, image, axis):
    boxes = {0: [25, 25, 6, 18, 3, 9], 1: [17, 33, 12, 12, 3, 9]}
    mask, _ = answer(prompted, image, roi=boxes[axis], label="liver", axis=str(axis))
    assert {int(n) for n in np.nonzero(mask.any(tuple(a for a in range(3) if a != axis)))[0]} == {boxes[axis][2 * axis]}


def test_an_object_is_a_function_of_the_full_request(prompted, service, image):
    """Whatever was asked before, corrected or taken back, with caches or without."""
    requests = [
        {"roi": BOX, "propagate": True},
        {"roi": BOX, "foreground": [[25, 12, 6]], "background": [[5, 25, 8]], "propagate": True},
        {"roi": BOX, "foreground": [[25, 12, 6]], "propagate": True},
    ]
    served = [answer(prompted, image, label="liver", **one)[0] for one in [*requests, requests[0]]]
    assert (served[0] == served[3]).all()
    for one, mask in zip(requests, served, strict=False):
        fresh = Prompted(Service(service.adapters.folder), lambda: NAMES)
        assert (answer(fresh, image, label="liver", **one)[0] == mask).all()
    assert all(mask.any((0, 1)).sum() > 1 for mask in served)  # never shrunk to one slice


def test_the_stored_type_ending_and_compression_are_the_client_s(prompted, image):
    path, _ = prompted({"image": str(image), "roi": BOX, "result_extension": ".nii.gz", "result_dtype": "int16"})
    assert nibabel.load(path).get_data_dtype() == np.int16
    raw, _ = prompted({"image": str(image), "roi": BOX, "result_compress": False})
    packed, _ = prompted({"image": str(image), "roi": BOX})
    assert Path(raw).stat().st_size > 10 * Path(packed).stat().st_size


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({}, "neither foreground points nor a roi"),
        ({"background": [[1, 1, 1]]}, "neither foreground points nor a roi"),
        (
            {"foreground": [[99, 1, 1]]},
            r"foreground point \[99, 1, 1\] of the request lies outside the volume of 40 x 30 x 12",
        ),
        ({"roi": BOX, "label": "kidney"}, "asks for label 'kidney'; known are spleen, liver"),
        ({"roi": BOX, "label": 3}, "label must be a name, got 3"),
        ({"roi": BOX, "axis": 7}, "axis must be 0, 1 or 2, the axis of the slices, got 7"),
        ({"roi": BOX, "propagate": "perhaps"}, "propagate must be true or false, got 'perhaps'"),
        (
            {"roi": BOX, "adapter": "../x"},
            r"adapter must be one of champion, none, random, or a digest of one, got '\.\./x'",
        ),
        ({"roi": BOX, "result_extension": ".py"}, "result_extension must be one of"),
        ({"roi": BOX, "label": "liver", "correct_label": True}, "the adapter has no tokens for it"),
    ],
)
def test_what_cannot_be_answered_is_refused(prompted, image, request_, sentence):
    with pytest.raises(ValueError, match=sentence):
        prompted({"image": str(image), **request_})


def test_info_is_what_slicer_and_ohif_want(prompted, service):
    info = prompted.info()
    assert info["type"] == "deepgrow"
    assert info["dimension"] == 3
    assert info["labels"] == {"spleen": 1, "liver": 2}
    for value in info["config"].values():
        assert isinstance(value, bool | int | float | str) or all(isinstance(one, str) for one in value)
    assert Automatic(service, dict).info()["labels"] == {}


def test_the_largest_component_alone_is_connected(prompted, image):
    from scipy import ndimage

    mask, _ = answer(prompted, image, roi=BOX, label="liver", largest_cc=True)
    assert ndimage.label(mask)[1] == 1


def test_a_label_is_found_without_a_prompt_once_it_was_learned(service, image, tmp_path):
    automatic = Automatic(service, lambda: NAMES)
    with pytest.raises(PromptError, match="The adapter random has not learned to find a label without a prompt yet"):
        automatic({"image": str(image)})
    # The adapter counts otherwise than the studies do: names decide.
    write_champion(service.adapters.folder, "z", labels={1: "liver", 5: "gall"}, tokens=True)
    mask, params = answer(automatic, image, adapter="z")
    assert params["label_names"] == {"liver": 2}
    assert set(np.unique(mask)) <= {0, 2}
    assert len(params["confidence"]["liver"]) == SHAPE[2]
    with pytest.raises(PromptError, match="label must be one of spleen, liver, got 'gall'"):
        automatic({"image": str(image), "adapter": "z", "label": "gall"})
    with pytest.raises(PromptError, match="The adapter z has not learned to find 'spleen' without a prompt yet"):
        automatic({"image": str(image), "adapter": "z", "label": "spleen"})


def test_a_client_that_is_gone_ends_the_work(prompted, image):
    asked = []

    def gone():
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(ClientGoneError, match=r"The client that asked for image\.nii\.gz is gone"):
        prompted({"image": str(image), "roi": BOX, "propagate": True, "is_cancelled": gone})
    assert len(asked) == 4
    assert answer(prompted, image, roi=BOX)[0].any()  # the device is free again


def test_slices_around_a_click_are_encoded_while_nobody_asks(prompted, service, image):
    answer(prompted, image, roi=BOX)
    served = service.adapters.get()
    slices = service.images.get(image, served.intensity).volume(2)
    for _ in range(200):
        if all(served.embedder.holds(slices, k) for k in range(SHAPE[2])):
            break
        time.sleep(0.1)
    assert all(served.embedder.holds(slices, k) for k in range(SHAPE[2]))
    before = served.embedder.cache.statistics.misses
    answer(prompted, image, roi=[*BOX[:4], 7, 7])
    assert served.embedder.cache.statistics.misses == before


def test_compression_may_be_switched_off_in_words(prompted, image):
    sizes = [
        Path(prompted({"image": str(image), "roi": BOX, "result_compress": one})[0]).stat().st_size
        for one in (False, "false", True, "", None)
    ]
    assert sizes[0] == sizes[1] > np.prod(SHAPE) > max(sizes[2], sizes[4])
    with pytest.raises(PromptError, match="result_compress must be true or false, got 'maybe'"):
        prompted({"image": str(image), "roi": BOX, "result_compress": "maybe"})


def test_however_many_click_one_thread_encodes_ahead(service):
    embedder, before = service.adapters.get().embedder, set(threading.enumerate())
    volumes = [Volume(np.full((8, 8, 20), value, np.uint8)) for value in range(8)]

    def started():
        return [thread for thread in threading.enumerate() if thread.name == "ahead" and thread not in before]

    with service.device.hold(background=True):  # as while requests keep coming
        for some in volumes[:-1]:
            service._ahead.start(service.adapters.get(), some, [10])
        assert len(started()) == 1
    for last in volumes[-2:]:  # the last one that was asked for, and one after all were done
        service._ahead.start(service.adapters.get(), last, [10])
        for thread in started():
            thread.join(60)
        assert all(embedder.holds(last, k) for k in range(2, 19))
    assert not embedder.holds(volumes[0], 3)
    assert started() == []


def test_many_at_once_get_what_one_alone_gets(prompted, image):
    boxes = [[17 + n, 33, 6, 18, 2 + n, 2 + n] for n in range(6)]
    alone = [answer(prompted, image, roi=box)[0] for box in boxes]
    together = [None] * len(boxes)

    def ask(n):
        together[n] = answer(prompted, image, roi=boxes[n])[0]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(boxes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((one == other).all() for one, other in zip(alone, together, strict=True))


def test_warming_up_leaves_nothing_behind(service):
    service.warm_up()
    assert not torch.is_inference_mode_enabled()
    with service.device.hold(timeout=0.05):
        pass
