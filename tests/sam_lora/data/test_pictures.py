"""Pictures of every mode, and masks as values, palettes, colours or one per object."""

import contextlib
import json

import itk
import numpy as np
import pytest
from PIL import Image

from sam_lora.cases import CaseError, read_case
from sam_lora.data.pictures import grey_or_rgb, mask_values, prepare_pictures, read_pages


def picture(mode="RGB", size=(10, 7)):
    rng = np.random.RandomState(0)
    rgb = Image.fromarray(rng.randint(0, 255, (size[1], size[0], 3), np.uint8))
    return rgb.convert(mode) if mode != "I;16" else Image.fromarray(rng.randint(0, 60000, size[::-1]).astype(np.uint16))


def mask(size=(10, 7)):
    values = np.zeros(size[::-1], np.uint8)
    values[1:4, 2:6], values[5, 7:9] = 1, 2
    return values


def prepare(folder, **options):
    arguments = {"colours": {}, "names": {}, "section": "training", "several": False, "processes": 1, **options}
    prepare_pictures(str(folder / "i"), str(folder / "m"), folder / "out", **arguments)
    (case,) = (folder / "out").glob("*.npz")
    with np.load(case) as file:
        return file["imgs"], file["gts"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "i").mkdir()
    (tmp_path / "m").mkdir()
    Image.fromarray(mask()).save(tmp_path / "m" / "a.png")
    return tmp_path


@pytest.mark.parametrize(
    ("mode", "ending", "channels"),
    [("L", "png", 0), ("RGB", "png", 3), ("RGBA", "png", 3), ("P", "png", 3), ("I;16", "png", 0), ("1", "png", 0), ("L", "tif", 0),
     ("RGB", "bmp", 3), ("RGB", "jpg", 3), ("CMYK", "tif", 3)],
)  # fmt: skip
def test_every_mode_becomes_grey_or_rgb_of_eight_bits(folder, mode, ending, channels):
    picture(mode).save(folder / "i" / f"a.{ending}")
    imgs, gts = prepare(folder)
    assert imgs.shape == ((1, 7, 10, 3) if channels else (1, 7, 10))
    assert imgs.dtype == np.uint8
    assert imgs.std() > 10
    assert np.array_equal(gts[0], mask())
    if mode in ("RGB", "RGBA") and ending == "png":
        assert np.array_equal(imgs[0], np.asarray(picture("RGB")))


def test_pages_become_slices(folder):
    pages = [picture("L"), Image.fromarray(255 - np.asarray(picture("L")))]
    pages[0].save(folder / "i" / "a.tif", save_all=True, append_images=pages[1:])
    masks = [Image.fromarray(mask()), Image.fromarray(mask()[::-1].copy())]
    (folder / "m" / "a.png").unlink()
    masks[0].save(folder / "m" / "a.tif", save_all=True, append_images=masks[1:])
    imgs, gts = prepare(folder)
    assert np.array_equal(imgs[1], 255 - imgs[0])
    assert np.array_equal(gts[1], mask()[::-1])


def test_palette_masks_are_indices_and_colours_need_a_map(folder):
    picture().save(folder / "i" / "a.png")
    palette = Image.fromarray(mask(), "P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    palette.save(folder / "m" / "a.png")
    assert np.array_equal(prepare(folder)[1][0], mask())
    (folder / "out" / "a.npz").unlink()
    palette.convert("RGB").save(folder / "m" / "a.png")
    with pytest.raises(ValueError, match=r"a.png is in colour \(RGB\): give --colors FILE.json"):
        prepare(folder)
    _, gts = prepare(folder, colours={(255, 0, 0): 5, (0, 255, 0): 9})
    assert np.array_equal(gts[0], np.choose(mask(), [0, 5, 9]))
    with pytest.raises(CaseError, match=r"x has the colour \[0, 255, 0\], which the colour map does not have"):
        mask_values(palette.convert("RGB"), {(255, 0, 0): 5}, "x")


def test_one_mask_per_object(folder):
    picture().save(folder / "i" / "a.png")
    (folder / "m" / "a.png").unlink()
    for value in (1, 2):
        Image.fromarray(((mask() == value) * 255).astype(np.uint8)).save(folder / "m" / f"a_{value}.png")
    assert np.array_equal(prepare(folder, several=True)[1][0], mask())


def test_sixteen_bits_go_through_percentiles():
    ramp = np.linspace(1, 60000, 1000).reshape(20, 50).astype(np.uint16)
    result = grey_or_rgb([Image.fromarray(ramp)], "x")[0]
    assert (result.min(), result.max()) == (0, 255)
    assert abs(int(result[10, 0]) - 127) < 4


def test_what_does_not_fit_is_refused_in_a_sentence(folder):
    def refused(sentence):
        with pytest.raises(ValueError, match=sentence):
            prepare(folder)

    picture(size=(9, 7)).save(folder / "i" / "a.png")
    refused(r"a.png has 1 pages of \(7, 9\), .*a.png has \(1, 7, 10\)")
    Image.fromarray(mask() * 0).save(folder / "m" / "a.png")
    picture().save(folder / "i" / "a.png")
    refused("holds no object")
    (folder / "m" / "a.png").write_bytes(b"broken")
    refused("cannot be read as a picture; it is cut short or of another format")
    assert json.loads((folder / "out" / "failures.json").read_text()).keys() == {"a"}
    assert not list((folder / "out").glob("*.npz"))


def test_one_mask_per_object_is_an_object_where_there_is_one(folder):
    picture().save(folder / "i" / "a.png")
    (folder / "m" / "a.png").unlink()
    Image.fromarray((mask() > 0).astype(np.uint8) * 255).save(folder / "m" / "a_1.png")
    assert np.array_equal(prepare(folder, several=True)[1][0], mask() > 0)


def test_pages_of_sixteen_bits_share_their_percentiles(folder):
    ramp = np.linspace(1, 20000, 70).reshape(7, 10).astype(np.uint16)
    pages = [Image.fromarray(ramp), Image.fromarray(ramp + 40000)]
    pages[0].save(folder / "i" / "a.tif", save_all=True, append_images=pages[1:])
    (folder / "m" / "a.png").unlink()
    Image.fromarray(mask()).save(folder / "m" / "a.tif", save_all=True, append_images=[Image.fromarray(mask())])
    imgs, _ = prepare(folder)
    assert imgs[0].max() < 100 < 150 < imgs[1].min()


@pytest.mark.parametrize("ending", ["jpg", "tif"])
def test_masks_of_lossy_compression_are_refused(folder, ending):
    picture().save(folder / "i" / "a.png")
    (folder / "m" / "a.png").unlink()
    Image.fromarray(mask() * 100).save(folder / "m" / f"a.{ending}", compression="jpeg")
    with pytest.raises(ValueError, match=f"a.{ending} is a JPEG: its compression changes labels; save masks as PNG"):
        prepare(folder)
    with pytest.raises(CaseError, match=f"a.{ending} is a JPEG"):
        read_case({"image": str(folder / "i" / "a.png"), "label": str(folder / "m" / f"a.{ending}")})


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_colour_of_sixteen_bits_is_refused(folder, ending):
    deep = np.random.RandomState(0).randint(0, 4096, (7, 10, 3)).astype(np.uint16)
    path = folder / "i" / f"a.{ending}"
    itk.imwrite(itk.image_from_array(deep, is_vector=True), str(path))
    with pytest.raises(ValueError, match=f"a.{ending} has 16 bits per colour, of which 8 would be lost"):
        prepare(folder)
    with pytest.raises(CaseError, match=f"a.{ending} has 16 bits per colour"):
        read_case({"image": str(path)})


def test_a_picture_too_large_to_be_one_and_a_damaged_one_stop_no_other(folder, monkeypatch):
    picture().save(folder / "i" / "a.png")
    picture(size=(40, 30)).save(folder / "i" / "b.png")
    Image.fromarray(mask((40, 30))).save(folder / "m" / "b.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"1 of 2 cases failed.*b.png has more pixels than a picture may have"):
        prepare(folder)
    assert (folder / "out" / "a.npz").is_file()


def test_a_tiff_damaged_anywhere_is_a_sentence(tmp_path):
    picture().save(tmp_path / "a.tif")
    content = (tmp_path / "a.tif").read_bytes()
    for place in range(len(content)):
        for value in (0, 3, 255):
            (tmp_path / "b.tif").write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
            with contextlib.suppress(CaseError):
                read_pages(tmp_path / "b.tif")
