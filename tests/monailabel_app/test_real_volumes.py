"""The clients on an MR and a CT of patients, as they are stored and mirrored: masks on the organ, labels kept whole."""

import shutil

import itk
import nibabel
import numpy as np
import pytest
from monailabel.client import MONAILabelClient

from sam_lora.cases import write_nifti
from tests.conftest import overlap, write_champion
from tests.monailabel_app.served import served, slicer_client
from tests.monailabel_app.test_clients import SLICER

pytestmark = pytest.mark.accept

CASES = {  # image, label map, value of the organ that is segmented
    "hippocampus": ("mr-hippocampus-msd/images/hippocampus_190.nii.gz", "mr-hippocampus-msd/labels/hippocampus_190.nii.gz", 1),
    "ct": ("ct-totalsegmentator/case01_abdomen_ct/image.nii.gz", "ct-totalsegmentator/case01_abdomen_ct/label.nii.gz", 2),
}  # fmt: skip


@pytest.fixture(scope="module")
def truths(data_dir):
    """name -> label map (I, J, K) and affine; a case that ends in _mirrored has its first two axes turned round."""
    found = {}
    for name, (_, label, _) in CASES.items():
        file = nibabel.load(data_dir / label)
        found[name] = np.asanyarray(file.dataobj).astype(np.uint8), file.affine
        found[f"{name}_mirrored"] = mirrored(*found[name])
    return found


def mirrored(array, affine):
    """The same voxels at the same places, stored from the other ends of the first two axes: RAS becomes LPS."""
    turn = np.diag([-1.0, -1, 1, 1])
    turn[:2, 3] = array.shape[0] - 1, array.shape[1] - 1
    return array[::-1, ::-1].copy(), affine @ turn


@pytest.fixture(scope="module")
def studies(data_dir, truths, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real") / "studies"
    (folder / ".sam_lora" / "adapters").mkdir(parents=True)
    for name, (image, _, _) in CASES.items():
        file = nibabel.load(data_dir / image)
        array = np.asanyarray(file.dataobj)
        write_nifti(folder / f"{name}.nii.gz", array, file.affine)
        write_nifti(folder / f"{name}_mirrored.nii.gz", *mirrored(array, file.affine))
    labels = {1: "anterior", 2: "posterior"}
    write_champion(folder / ".sam_lora" / "adapters", "a", labels=labels, tokens=True)
    return folder


@pytest.fixture(scope="module")
def server(studies):
    with served(studies, "--labels", "anterior,posterior,kidney") as (url, _):
        yield url


@pytest.fixture
def client(server, tmp_path):
    return slicer_client()(server, str(tmp_path), "user-1")


def ask(client, image, session=None, **params):
    """Mask (I, J, K) and its file's grid; without an adapter, the published weights answer."""
    request = {**SLICER, "adapter": "none", **params}
    file, answer = client.infer("sam_lora", "" if session else image, request, session_id=session)
    mask = itk.imread(file)
    return itk.array_from_image(mask).transpose(), mask, answer


def organ(truths, name):
    """Its mask, and the box of its middle slice that bounds a propagation by two slices on each side."""
    label, _ = truths[name]
    mask = label == CASES[name.removesuffix("_mirrored")][2]
    k = int(np.median(mask.any((0, 1)).nonzero()[0]))
    i, j = mask[..., k].nonzero()
    return mask, [int(i.min()), int(i.max()), int(j.min()), int(j.max()), k - 2, k + 2]


@pytest.mark.parametrize("name", [*CASES, *(f"{name}_mirrored" for name in CASES)])
def test_a_box_finds_the_organ_where_it_lies(client, studies, truths, name):
    truth, box = organ(truths, name)
    k = box[4] + 2
    voxels, mask, _ = ask(client, name, label="kidney", roi=[box[1], box[0], *box[2:]], propagate=True)
    stored = itk.imread(str(studies / f"{name}.nii.gz"))
    for index in ([0, 0, 0], [n - 1 for n in truth.shape]):
        place = stored.TransformIndexToPhysicalPoint(index)
        assert np.allclose(mask.TransformIndexToPhysicalPoint(index), place, atol=1e-3)
    assert overlap(voxels[..., k] > 0, truth[..., k]) > 0.65  # 0.74 to 0.81 where this was written
    assert voxels.any((0, 1)).nonzero()[0].tolist() == list(range(k - 2, k + 3))


@pytest.mark.parametrize("name", CASES)
def test_clicks_correct_the_object_on_their_slice_and_it_stays_whole(client, truths, name):
    truth, box = organ(truths, name)
    asked = {"label": "kidney", "roi": box, "propagate": True}
    whole, _, _ = ask(client, name, **asked)
    k = box[4] + 3
    wrong = np.argwhere((whole[..., k] > 0) & ~truth[..., k])
    i, j = (int(n) for n in wrong[len(wrong) // 2])
    corrected, _, _ = ask(client, name, **asked, background=[[i, j, k]])
    assert (corrected[..., k] != whole[..., k]).any()
    assert (corrected[..., : k - 1] == whole[..., : k - 1]).all()  # the prompted slice, and those beyond it
    assert corrected.any((0, 1)).sum() > 1
    without, _, _ = ask(client, name, **asked, background=[])
    assert (without == whole).all()  # a click that is taken back takes its effect with it


def test_a_roi_may_leave_the_volume_and_a_session_s_copy_answers_alike(client, studies, truths, tmp_path):
    _, box = organ(truths, "ct")
    middle = {"label": "kidney", "roi": [box[0], 500, -40, box[3], box[4] + 2, box[4] + 2]}
    stored, _, _ = ask(client, "ct", **middle)
    clipped, _, _ = ask(client, "ct", label="kidney", roi=[box[0], 121, 0, box[3], box[4] + 2, box[4] + 2])
    assert stored.any()
    assert (stored == clipped).all()
    session = client.create_session(str(shutil.copy(studies / "ct.nii.gz", tmp_path / "own.nii.gz")))["session_id"]
    own, _, _ = ask(client, "", session, **middle)
    assert (own == stored).all()
    client.remove_session(session)


def test_every_learned_label_without_a_prompt(client, truths):
    file, answer = client.infer("sam_lora_auto", "hippocampus", SLICER)
    mask = itk.array_from_image(itk.imread(file)).transpose()
    assert mask.shape == truths["hippocampus"][0].shape
    assert answer["label_names"] == {"anterior": 1, "posterior": 2}


@pytest.mark.parametrize("name", [*CASES, *(f"{name}_mirrored" for name in CASES)])
def test_labels_come_back_with_their_values_names_and_place(server, truths, tmp_path, name):
    client = MONAILabelClient(server, str(tmp_path), "user-1")
    label, affine = truths[name]
    label = np.where(label > 3, 0, label)
    names = ["anterior", "posterior", "kidney"][: label.max()]
    drawn = itk.image_from_array(np.ascontiguousarray(label.transpose()))  # as Slicer writes it
    to_itk = np.diag([-1.0, -1, 1, 1]) @ affine
    drawn.SetOrigin(to_itk[:3, 3])
    drawn.SetSpacing(np.linalg.norm(to_itk[:3, :3], axis=0))
    drawn.SetDirection(to_itk[:3, :3] / np.linalg.norm(to_itk[:3, :3], axis=0))
    itk.imwrite(drawn, str(tmp_path / "drawn.nrrd"), True)
    info = [{"name": one, "idx": place} for place, one in enumerate(names, 1)]
    client.save_label(name, str(tmp_path / "drawn.nrrd"), "final", {"label_info": info})
    back = itk.imread(client.download_label(name, "final"))
    assert (itk.array_from_image(back).transpose() == label).all()
    for index in ([0, 0, 0], [n - 1 for n in label.shape]):
        place = drawn.TransformIndexToPhysicalPoint(index)
        assert np.allclose(back.TransformIndexToPhysicalPoint(index), place, atol=1e-3)
    kept = client.datastore()["objects"][name]["labels"]["final"]["info"]["label_info"]
    assert [one["name"] for one in kept] == names
    assert client.next_sample("first", {}).get("id") != name
