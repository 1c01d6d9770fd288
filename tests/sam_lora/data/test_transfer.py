"""Cases in the folders of their sections."""

import json

import pytest

from sam_lora.cases import CaseError
from sam_lora.data.transfer import transfer


def entry(name):
    return {"image": f"images/{name}", "label": f"labels/{name}"}


@pytest.fixture
def folder(tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "a.nii").write_bytes(kind.encode())
    return tmp_path


@pytest.mark.parametrize("by_link", [False, True])
def test_cases_are_copied_or_linked_and_nothing_is_written_over(folder, by_link):
    content = transfer({"training": [entry("a.nii")]}, folder, by_link)
    assert content["training"] == [{"image": "train/images/a.nii", "label": "train/labels/a.nii"}]
    assert (folder / "train" / "images" / "a.nii").read_bytes() == b"images"
    assert (folder / "train" / "images" / "a.nii").is_symlink() == by_link
    assert transfer({"training": [entry("a.nii")]}, folder, by_link) == content  # again is fine
    assert transfer(content, folder, by_link) == content
    if not by_link:
        (folder / "train" / "images" / "a.nii").write_bytes(b"IMAGES")  # of the same size
        with pytest.raises(CaseError, match="train/images/a.nii is there already and is another file"):
            transfer({"training": [entry("a.nii")]}, folder, by_link)


@pytest.mark.parametrize("by_link", [False, True])
def test_a_copy_moves_when_its_section_changes(tmp_path, by_link):
    (tmp_path / "a.npz").write_bytes(b"1")
    npz = {"image": "a.npz", "label": "a.npz"}
    (moved,) = transfer({"training": [npz]}, tmp_path, by_link)["training"]
    for _ in range(2):  # the second time it has moved and the datalist does not know
        content = transfer({"test": [moved]}, tmp_path, by_link)
        assert content["test"] == [{"image": "test/a.npz", "label": "test/a.npz"}]
        assert (tmp_path / "test" / "a.npz").read_bytes() == b"1"
        assert not list((tmp_path / "train").iterdir())


def test_what_a_killed_copy_left_is_removed(folder):
    (folder / "train" / "images").mkdir(parents=True)
    (folder / "train" / "images" / ".a.nii.123.part").write_bytes(b"ima")
    transfer({"training": [entry("a.nii")]}, folder, False)
    assert [p.name for p in (folder / "train" / "images").iterdir()] == ["a.nii"]


def test_what_is_not_there_or_a_folder_is_refused(folder):
    with pytest.raises(CaseError, match="There is no .*b.nii"):
        transfer({"test": [entry("b.nii")]}, folder, False)
    (folder / "series").mkdir()
    (folder / "series" / "1.dcm").touch()
    with pytest.raises(CaseError, match="series is a folder of DICOM files: give --link"):
        transfer({"test": [{"image": "series"}]}, folder, False)
    assert json.dumps(transfer({"test": [{"image": "series"}]}, folder, True))
