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
    copy = {"image": "train/images/a.nii", "label": "train/labels/a.nii"}
    assert content["training"] == [{**copy, "copied_from": entry("a.nii")}]
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
        assert content["test"] == [{"image": "test/a.npz", "label": "test/a.npz", "copied_from": npz}]
        assert (tmp_path / "test" / "a.npz").read_bytes() == b"1"
        assert not list((tmp_path / "train").iterdir())


@pytest.mark.parametrize("by_link", [False, True])
def test_a_folder_of_the_user_called_train_is_not_ours_to_move(tmp_path, by_link):
    (tmp_path / "train").mkdir()
    for name in "ab":
        (tmp_path / "train" / f"{name}.png").write_bytes(name.encode())
    content = {"training": [{"image": "train/a.png"}], "test": [{"image": "train/b.png"}]}
    content = transfer(content, tmp_path, by_link)
    assert content["training"] == [{"image": "train/a.png"}]  # is where it belongs
    content = transfer({"validation": content["training"] + content["test"]}, tmp_path, by_link)
    assert [e["image"] for e in content["validation"]] == ["validation/a.png", "validation/b.png"]
    assert sorted(p.name for p in (tmp_path / "train").iterdir()) == ["a.png", "b.png"]  # the user's
    assert not list((tmp_path / "test").iterdir())  # was ours


def test_image_and_label_of_one_name_keep_their_folders(folder):
    out = folder / "out"
    away = {kind[:-1]: str(folder / kind / "a.nii") for kind in ("images", "labels")}
    content = transfer({"training": [away]}, out, True)
    copies = {"image": "train/images/a.nii", "label": "train/labels/a.nii"}
    assert content["training"] == [{**copies, "copied_from": away}]
    assert (out / "train" / "labels" / "a.nii").read_bytes() == b"labels"


def test_nothing_is_done_before_all_is_known_to_be_possible(folder):
    for last in ({"image": "c.nii"}, {"image": str(folder / "away" / "images" / "a.nii")}):
        with pytest.raises(CaseError, match=r"There is no .*c.nii|would both become .*train/images/a.nii"):
            transfer({"training": [{"image": "images/a.nii"}, last]}, folder, True)
        assert not (folder / "train").exists()


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
