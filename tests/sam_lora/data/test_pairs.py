"""Which mask belongs to which image."""

import pytest

from sam_lora.cases import CaseError
from sam_lora.data.pairs import VOLUMES, find_files, pair_up


def touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return sorted(folder.iterdir())


def test_equal_names_then_beginnings(tmp_path):
    images = touch(tmp_path / "i", "case1.nii.gz", "case10.nii.gz", "case2_0000.nii.gz")
    labels = touch(tmp_path / "l", "case1_seg.nii", "case10.nii.gz", "case2.nii.gz")
    pairs = pair_up(images, labels)
    assert [(p.name, p.labels[0].name) for p in pairs] == [
        ("case1", "case1_seg.nii"), ("case10", "case10.nii.gz"), ("case2_0000", "case2.nii.gz"),
    ]  # fmt: skip


def test_two_single_files_are_a_pair(tmp_path):
    (image,), (label,) = touch(tmp_path / "i", "x.nii"), touch(tmp_path / "l", "y.nii")
    assert pair_up([image], [label])[0].labels == (label,)


def test_one_mask_per_object(tmp_path):
    images = touch(tmp_path / "i", "a1.png", "a10.png")
    labels = touch(tmp_path / "l", "a1_0.png", "a1_1.png", "a10_0.png")
    assert [[p.name for p in pair.labels] for pair in pair_up(images, labels, several=True)] == [
        ["a1_0.png", "a1_1.png"],
        ["a10_0.png"],
    ]


def test_what_is_not_clear_is_refused(tmp_path):
    images = touch(tmp_path / "i", "a.nii", "b.nii")
    with pytest.raises(CaseError, match="b.nii has no mask: none of 1 begins with b"):
        pair_up(images, touch(tmp_path / "l", "a.nii"))
    with pytest.raises(CaseError, match="a.nii could have several masks: a_1.nii, a_2.nii; name one a"):
        pair_up(images, touch(tmp_path / "m", "a_1.nii", "a_2.nii", "b.nii"))
    with pytest.raises(CaseError, match="Two images are called a"):
        pair_up([*images, tmp_path / "i" / "a.nii"], images)


def test_no_image_takes_the_mask_of_another(tmp_path):
    images = touch(tmp_path / "i", "frame_1.png", "frame_10.png")
    with pytest.raises(CaseError, match="frame_10.png has no mask"):
        pair_up(images, touch(tmp_path / "l", "frame_1.png"))
    with pytest.raises(CaseError, match="frame_1.png has no mask"):
        pair_up(images, touch(tmp_path / "m", "frame_10.png"))
    for several in (False, True):
        with pytest.raises(CaseError, match=r"case.nii would be the mask of case_a.nii and of case_b.nii; name each"):
            pair_up(touch(tmp_path / "c", "case_a.nii", "case_b.nii"), touch(tmp_path / "d", "case.nii"), several)


def test_a_folder_gives_its_files_and_its_series(tmp_path):
    for name in ("p1", "notes"):
        (tmp_path / name).mkdir()
    touch(tmp_path / "p1", "0.dcm", "1.dcm")
    (tmp_path / "p2.nii.gz").touch()
    assert [p.name for p in find_files(str(tmp_path), VOLUMES)] == ["p1", "p2.nii.gz"]
    assert find_files(str(tmp_path / "p1"), VOLUMES) == [tmp_path / "p1"]


def test_folders_patterns_and_files(tmp_path):
    files = touch(tmp_path / "i", "a.nii", "b.nii.gz", "notes.txt")
    assert find_files(str(tmp_path / "i"), VOLUMES) == files[:2]
    assert find_files(str(tmp_path / "i" / "a*"), VOLUMES) == files[:1]
    assert find_files(str(files[0]), VOLUMES) == files[:1]
    with pytest.raises(CaseError, match="Nothing is found in .*nowhere"):
        find_files(str(tmp_path / "nowhere"), VOLUMES)
