"""Images and labels in a folder: nothing outside is touched, nothing saved is lost."""

import json
import logging
from pathlib import Path

import nibabel
import numpy as np
import pytest
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException

from monailabel_app.lib.datastores.local import StudiesFolder
from monailabel_app.lib.datastores.names import DatastoreError
from sam_lora.cases import CaseError, write_nifti
from tests.monailabel_app.lib.datastores.conftest import SHAPE, drawn, stored


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name", ["../a", "a/../../x", "/etc/passwd", "", ".hidden", "a b", "a" * 129, "a..b", "x\n", "a/b"]
)
def test_an_id_is_no_path(store, folder, tmp_path, name):
    before = files(tmp_path)
    sentence = (
        r"An image id has 1 to 128 letters, digits, '_', '-' and single '\.', and begins with a letter or digit, got "
    )
    for ask in (
        lambda: store.get_image_uri(name),
        lambda: store.save_label(name, str(folder / "a.nii.gz"), "final", {}),
        lambda: store.remove_image(name),
        lambda: store.update_image_info(name, {}),
        lambda: store.label_versions(name, "final"),
    ):
        with pytest.raises(DatastoreError, match=sentence):
            ask()
    if name:  # an upload without an id takes the file's name
        with pytest.raises(DatastoreError, match=sentence):
            store.add_image(name, str(folder / "a.nii.gz"), {})
    assert files(tmp_path) == before


@pytest.mark.parametrize("tag", ["../final", "final/..", "", "1st", "a" * 33, "a-b"])
def test_a_tag_is_no_path(store, folder, tmp_path, tag):
    before = files(tmp_path)
    with pytest.raises(
        DatastoreError, match="A tag has 1 to 32 letters, digits and '_', and begins with a letter, got "
    ):
        store.save_label("a", str(folder / "a.nii.gz"), tag, {})
    with pytest.raises(DatastoreError, match="A tag has 1 to 32 letters"):
        store.get_label_uri("a", tag)
    assert files(tmp_path) == before


def test_only_images_are_taken_and_none_is_replaced(store, folder, tmp_path):
    script = tmp_path / "main.py"
    script.write_text("raise SystemExit")
    with pytest.raises(DatastoreError, match=r"A file must end in \.nii\.gz, .*, got 'main\.py'"):
        store.add_image("d", str(script), {})
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no image")
    with pytest.raises(CaseError):
        store.add_image("d", str(broken), {})
    with pytest.raises(DatastoreError, match="There is an image 'a' already: give the new one another id"):
        store.add_image("a", str(folder / "b.nii.gz"), {})
    assert store.add_image("d", str(folder / "b.nii.gz"), {"patient": "p"}) == "d"
    assert Path(store.get_image_uri("d")).read_bytes() == (folder / "b.nii.gz").read_bytes()
    assert sorted(store.list_images()) == ["a", "b", "c", "d"]


def test_what_is_unknown_is_said_so(store):
    with pytest.raises(ImageNotFoundException):
        store.get_image_uri("zz")
    with pytest.raises(LabelNotFoundException):
        store.get_label_uri("a", "final")
    with pytest.raises(DatastoreError, match="There is no label to download yet"):
        store.get_dataset_archive(None)


def test_names_that_are_no_ids_and_links_out_are_not_served(folder, tmp_path, caplog):
    (folder / "a b.nii.gz").write_bytes((folder / "a.nii.gz").read_bytes())
    secret = tmp_path / "secret.nii.gz"
    secret.write_bytes((folder / "a.nii.gz").read_bytes())
    (folder / "link.nii.gz").symlink_to(secret)
    with caplog.at_level(logging.WARNING):
        store = StudiesFolder(str(folder))
        assert sorted(store.list_images()) == ["a", "b", "c"]
    assert "a b.nii.gz is not served" in caplog.text
    assert "link.nii.gz is not served" in caplog.text


def test_a_file_that_is_put_there_or_taken_away_is_noticed(store, folder):
    (folder / "later.nii.gz").write_bytes((folder / "a.nii.gz").read_bytes())
    assert "later" in store.list_images()
    (folder / "later.nii.gz").unlink()
    assert "later" not in store.list_images()


def test_a_label_must_lie_on_its_image(store, tmp_path):
    moved = np.diag([1.0, 1, 2, 1])
    moved[0, 3] = 9
    with pytest.raises(CaseError, match="affines differ"):
        store.save_label("a", str(drawn(tmp_path, affine=moved)), "final", {})
    other = write_nifti(tmp_path / "other.nii.gz", np.ones((3, 3, 3), np.uint8), np.eye(4))
    with pytest.raises(CaseError, match="they must be equal"):
        store.save_label("a", str(other), "final", {})
    fractions = write_nifti(tmp_path / "f.nii.gz", np.full(SHAPE, 0.5, np.float32), np.diag([1, 1, 2, 1]))
    with pytest.raises(CaseError, match="must hold whole numbers from 0"):
        store.save_label("a", str(fractions), "final", {})
    assert store.status()["completed"] == 0


def test_the_newest_label_serves_and_earlier_ones_are_kept(store, folder, tmp_path):
    for value, ending in ((1, ".nii.gz"), (2, ".nii"), (3, ".nii.gz")):
        store.save_label("a", str(drawn(tmp_path, value, ending)), "final", {"client_id": f"user{value}"})
        assert stored(store, "a") == value
    assert [path.name for path in (folder / "labels" / "final").iterdir()] == ["a.nii.gz"]
    versions = store.label_versions("a", "final")
    assert [one["client_id"] for one in versions] == ["user2", "user1"]
    kept = [folder / ".sam_lora" / "versions" / "final" / "a" / one["file"] for one in versions]
    assert [int(np.asanyarray(nibabel.load(path).dataobj).max()) for path in kept] == [2, 1]
    assert set(store.status()["label_tags"]) == {"final"}  # versions are no tag
    store.remove_label("a", "final")
    assert [one["client_id"] for one in store.label_versions("a", "final")] == ["user3", "user2", "user1"]
    with pytest.raises(LabelNotFoundException):
        store.get_label_uri("a", "final")


def test_a_model_s_label_is_marked_and_never_counts(store, tmp_path):
    store.save_label("a", str(drawn(tmp_path)), "original", {})
    store.save_label("b", str(drawn(tmp_path)), "final", {"model": "sam_lora"})
    assert store.get_label_info("a", "original")["made_by"] == "model"
    assert store.get_labeled_images() == []
    assert store.status()["completed"] == 0
    assert store.datalist() == []
    store.save_label("b", str(drawn(tmp_path, 2)), "final", {})
    assert store.get_labeled_images() == ["b"]
    with pytest.raises(
        DatastoreError, match="'b' has a label that a human has finished: a model's does not replace it"
    ):
        store.save_label("b", str(drawn(tmp_path)), "final", {"model": "sam_lora"})
    store.update_label_info("b", "final", {"made_by": "model", "round": 3})
    assert store.get_label_info("b", "final")["made_by"] == "human"
    assert store.get_label_info("b", "final")["round"] == 3


def test_what_a_client_says_of_its_segments_is_a_list_of_them_or_refused(store, tmp_path):
    for wrong in (["spleen"], "spleen", {"name": "spleen"}):
        with pytest.raises(DatastoreError, match="label_info must be a list of"):
            store.save_label("a", str(drawn(tmp_path)), "final", {"label_info": wrong})
    assert store.get_labeled_images() == []
    store.save_label("a", str(drawn(tmp_path)), "final", {"label_info": [{"name": "spleen", "idx": 1}]})
    with pytest.raises(DatastoreError, match="label_info must be a list of"):
        store.update_label_info("a", "final", {"label_info": ["spleen"]})


def test_a_label_that_is_put_there_by_hand_is_not_what_was_said_of_another(store, folder, tmp_path):
    store.save_label("a", str(drawn(tmp_path)), "final", {"model": "sam_lora", "round": 3})
    store.remove_label("a", "final")
    (folder / "labels" / "final" / "a.nii.gz").write_bytes(drawn(tmp_path, 2).read_bytes())
    info = StudiesFolder(str(folder)).get_label_info("a", "final")
    assert not {"round", "model", "made_by"} & info.keys()
    assert StudiesFolder(str(folder)).get_labeled_images() == ["a"]


def test_whose_image_it_is_stays_once_it_has_a_label(store, tmp_path):
    store.update_image_info("a", {"patient": "p"})
    store.update_image_info("a", {"patient": "q"})
    store.save_label("a", str(drawn(tmp_path)), "final", {})
    with pytest.raises(DatastoreError, match="'a' is of patient 'q', and that stays"):
        store.update_image_info("a", {"patient": "p"})
    store.save_label("b", str(drawn(tmp_path)), "final", {})
    with pytest.raises(DatastoreError, match="'b' is of patient 'b', and that stays"):
        store.update_image_info("b", {"patient": "q"})
    store.remove_label("a", "final")
    with pytest.raises(DatastoreError, match="'a' is of patient 'q', and that stays"):
        store.update_image_info("a", {"patient": "p"})
    for nobody in ("", None):
        with pytest.raises(DatastoreError, match="'a' is of patient 'q', and that stays"):
            store.update_image_info("a", {"patient": nobody})
    store.update_image_info("a", {"patient": "q", "note": "x"})
    assert store.get_image_info("a")["note"] == "x"


def test_the_second_patient_and_every_fifth_after_it_stays_held_out(folder, tmp_path):
    for n in range(12):
        (folder / f"p{n:02d}.nii.gz").write_bytes((folder / "a.nii.gz").read_bytes())
    store = StudiesFolder(str(folder))
    store.update_image_info("p05", {"patient": "twin"})
    store.update_image_info("p01", {"patient": "twin"})
    order = ["p09", "p01", "p03", "p00", "p05", "p02", "p04", "p06", "p07"]
    for n, image in enumerate(order):
        store.save_label(image, str(drawn(tmp_path)), "final", {})
        assert store.holdout() == sorted({"p01", "p05"} & set(order[: n + 1]) | {"p06"} & set(order[: n + 1]))
    store.remove_label("p09", "final")  # whoever was held out stays so
    assert store.holdout() == ["p01", "p05", "p06"]
    assert json.loads((folder / ".sam_lora" / "holdout.json").read_text())["held_out"] == ["twin", "p06"]


def test_who_is_held_out_stays_so_when_the_image_is_removed_and_comes_back_as_nobodys(folder, tmp_path):
    store = StudiesFolder(str(folder))
    store.save_label("a", str(drawn(tmp_path)), "final", {})
    store.update_image_info("b", {"patient": "twin"})
    store.save_label("b", str(drawn(tmp_path)), "final", {})
    assert store.holdout() == ["b"]
    image = tmp_path / "again.nii.gz"
    image.write_bytes((folder / "b.nii.gz").read_bytes())
    store.remove_image("b")
    with pytest.raises(
        DatastoreError, match="'b' was an image of patient 'twin': give one of another patient another id"
    ):
        store.add_image("b", str(image), {"patient": "other"})
    store.add_image("b", str(image), {})
    store.save_label("b", str(drawn(tmp_path)), "final", {})
    assert (store.holdout(), store.patient("b")) == (["b"], "twin")


def test_who_is_held_out_stays_so_when_the_datastores_file_is_lost(folder, tmp_path):
    store = StudiesFolder(str(folder))
    for image, patient in (("a", "one"), ("b", "twin")):
        store.update_image_info(image, {"patient": patient})
        store.save_label(image, str(drawn(tmp_path)), "final", {})
    (folder / "datastore_v2.json").write_text("{")
    anew = StudiesFolder(str(folder))
    assert "patient" not in anew.get_image_info("b")
    assert (anew.holdout(), anew.patient("a"), anew.patient("b")) == (["b"], "one", "twin")
    order = json.loads((folder / ".sam_lora" / "holdout.json").read_text())["order"]
    assert order == ["one", "twin"]
