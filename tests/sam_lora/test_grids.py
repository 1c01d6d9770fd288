"""Every flip and permutation of axes is undone exactly; everything else is told in words."""

import itertools

import nibabel
import numpy as np
import pytest

from sam_lora.grids import difference, same_place, turn_onto

ANGLE = np.deg2rad(45)  # where the nearest axes are a tie
AFFINE = np.eye(4)
AFFINE[:3, :3] = [[np.cos(ANGLE), -np.sin(ANGLE), 0], [np.sin(ANGLE), np.cos(ANGLE), 0], [0, 0, 1]] * np.array(
    [0.8, 0.9, 3]
)
AFFINE[:3, 3] = 10, -20, 5


@pytest.mark.parametrize("affine", [AFFINE, np.diag([-1.0, -1, 2, 1])])
@pytest.mark.parametrize("order", [*itertools.permutations(range(3))])
@pytest.mark.parametrize("signs", [*itertools.product((1, -1), repeat=3)])
def test_every_flip_and_permutation_is_undone(affine, order, signs):
    array = np.arange(4 * 4 * 3).reshape(4, 4, 3)
    axes = np.column_stack([order, signs])
    other = nibabel.apply_orientation(array, axes)
    place = affine @ nibabel.orientations.inv_ornt_aff(axes, array.shape)
    assert np.array_equal(turn_onto(other, place, array.shape, affine), array)


def test_another_place_is_no_flip():
    array = np.zeros((4, 5, 6))
    for change in (np.diag([2, 1, 1, 1.0]), nibabel.affines.from_matvec(np.eye(3), [0.2, 0, 0])):
        assert turn_onto(array, AFFINE @ change, array.shape, AFFINE) is None
        assert not same_place(array.shape, AFFINE, AFFINE @ change)
    assert turn_onto(array[:3], AFFINE, array.shape, AFFINE) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [(np.diag([-1, 1, -1, 1.0]), "the mask is flipped left-right and foot-head"),
     (np.eye(4)[[1, 0, 2, 3]], "the image's axes run RAS, the mask's ARS"),
     (np.diag([1, 2, 1, 1.0]), "voxels of the image measure 1 x 1 x 1 mm, those of the mask 1 x 2 x 1 mm"),
     (nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(0.1)), "the mask's axes are turned against the image's"),
     (nibabel.affines.from_matvec(np.eye(3), [3, 4, 0]), "the mask begins 5 mm away from the image")],
)  # fmt: skip
def test_differences_are_told_in_words(change, words):
    assert difference(np.eye(4), change) == words
