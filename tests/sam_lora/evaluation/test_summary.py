"""Means weigh what they say, leave out what is undefined, and their intervals draw patients."""

import math

import pytest

from sam_lora.evaluation.summary import STATISTICS, describe, jsonable, summarize


def row(patient="a", label="x", protocol="oracle_box", unit="mm", slices=1, **fields):
    undefined = {field: float("nan") for field, _ in STATISTICS.values()}
    return {
        "patient": patient,
        "label": label,
        "protocol": protocol,
        "unit": unit,
        "slices": slices,
        **undefined,
        **fields,
    }


def test_object_and_volume_means_weigh_differently():
    rows = [row("a", "x", dice=0.0, mean_slice_dice=0.0), row("b", "y", slices=3, dice=1.0, mean_slice_dice=1.0)]
    found = summarize(rows)["oracle_box"]
    assert found["all"]["mean_dice"]["value"] == 0.5
    assert found["all"]["mean_object_dice"]["value"] == 0.75
    assert found["labels"]["y"]["mean_dice"] == {"value": 1.0, "interval": None}


def test_intervals_draw_patients_and_protocols_stay_apart():
    rows = [row(p, dice=d) for p, d in (("a", 0.2), ("a", 0.2), ("b", 0.8), ("b", 0.8))]
    rows.append(row("a", protocol="clicks_1", dice=0.1))
    found = summarize(rows)
    assert found["oracle_box"]["all"]["mean_dice"]["interval"] == (pytest.approx(0.2), pytest.approx(0.8))
    assert found["clicks_1"]["all"]["mean_dice"] == {"value": 0.1, "interval": None}


def test_what_is_undefined_counts_in_no_mean():
    found = summarize([row("a", dice=0.5, hd95=2.0, missed=0.0), row("b", dice=0.0, missed=1.0)])["oracle_box"]["all"]
    assert (found["mean_hd95"]["value"], found["share_missed"]["value"]) == (2.0, 0.5)
    assert math.isnan(found["mean_false_positive"]["value"])
    assert jsonable(found)["mean_false_positive"]["value"] is None


def test_millimetres_and_pixels_have_no_mean():
    found = summarize([row("a", dice=0.5, hd95=2.0), row("b", unit="pixels", dice=0.7, hd95=9.0)])["oracle_box"]
    assert found["unit"] == "mm and pixels"
    assert math.isnan(found["all"]["mean_hd95"]["value"])
    assert found["all"]["mean_dice"]["value"] == pytest.approx(0.6)


def test_the_table_names_what_is_defined():
    text = describe(summarize([row("a", dice=0.5), row("b", dice=0.7)]))
    assert text.splitlines()[0].split() == ["oracle_box", "all", "dice", "0.600", "[0.500,", "0.700]"]
