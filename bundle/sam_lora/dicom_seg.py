"""DICOM SEG: label maps of a DICOM series, read and written with highdicom."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import highdicom
import numpy as np
import pydicom
from pydicom.sr.codedict import codes

from sam_lora import __version__
from sam_lora.cases import CaseError
from sam_lora.files import write_aside


def is_seg(path: Path) -> bool:
    """Whether a file is a DICOM SEG."""
    if not path.is_file():
        return False
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
    except (pydicom.errors.InvalidDicomError, OSError):
        return False
    return str(header.get("SOPClassUID", "")) == "1.2.840.10008.5.1.4.1.1.66.4"


def series_in_order(folder: Path, affine: np.ndarray) -> list[pydicom.Dataset]:
    """The headers of a series, in the order of its volume's slices.

    Args:
        folder: the series.
        affine: voxel (i, j, k) -> RAS mm of the volume that was read from it.

    Raises:
        CaseError: if the files do not fill the volume's slices one by one.
    """
    files = [p for p in sorted(folder.iterdir()) if p.is_file()]
    headers = [pydicom.dcmread(p, stop_before_pixels=True, force=True) for p in files]
    headers = [h for h in headers if "ImagePositionPatient" in h]
    inverse = np.linalg.inv(affine)
    places: dict[int, pydicom.Dataset] = {}
    for header in headers:
        x, y, z = (float(v) for v in header.ImagePositionPatient)
        places[round((inverse @ [-x, -y, z, 1])[2])] = header  # DICOM is LPS, affines here are RAS
    if sorted(places) != list(range(len(headers))):
        raise CaseError(f"The {len(headers)} files of {folder} do not make one regular volume.")
    return [places[k] for k in range(len(headers))]


def read_seg(path: Path, folder: Path, affine: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
    """Read a DICOM SEG on the grid of the series it was made for.

    Args:
        path: the SEG.
        folder: the series.
        affine: of the volume read from the series.

    Returns:
        Label map ``(I, J, K)``, the value of a voxel being its segment's number, and value -> segment label.

    Raises:
        CaseError: if there is no folder of a series, the SEG belongs to another one or lies on another grid, or segments
            overlap.
    """
    if not folder.is_dir():
        raise CaseError(f"{path} is a DICOM SEG: it needs the folder of the series it was made for; {folder} is none.")
    seg = highdicom.seg.segread(path)
    series = series_in_order(folder, affine)
    uids = [header.SOPInstanceUID for header in series]
    if not {uid for *_, uid in seg.get_source_image_uids()} & set(uids):
        raise CaseError(f"{path} does not fit the series in {folder}: it was made for other images.")
    _refuse_other_grid(seg, series[0], path, folder)
    try:
        frames = seg.get_pixels_by_source_instance(
            uids, combine_segments=True, relabel=False, assert_missing_frames_are_empty=True
        )
    except (KeyError, ValueError, RuntimeError) as error:
        raise CaseError(f"{path} does not fit the series in {folder}: {error}") from error
    names = {number: seg.get_segment_description(number).segment_label for number in seg.segment_numbers}
    return np.ascontiguousarray(frames.transpose(2, 1, 0)), names


def _refuse_other_grid(seg: pydicom.Dataset, header: pydicom.Dataset, path: Path, folder: Path) -> None:
    """CaseError if the frames of a SEG do not have the size, spacing and directions of its series' slices."""
    kinds = {
        "rows and columns": (None, ("Rows", "Columns"), 0),
        "PixelSpacing": ("PixelMeasuresSequence", ("PixelSpacing",), 1e-3),
        "ImageOrientationPatient": ("PlaneOrientationSequence", ("ImageOrientationPatient",), 1e-3),
    }
    for name, (sequence, tags, tolerance) in kinds.items():
        expected = np.concatenate([np.atleast_1d(np.asarray(header[tag].value, float)) for tag in tags])
        for part in [seg] if sequence is None else _functional_groups(seg, sequence):
            found = np.concatenate([np.atleast_1d(np.asarray(part[tag].value, float)) for tag in tags])
            if not np.allclose(found, expected, rtol=0, atol=tolerance):
                raise CaseError(
                    f"{path} does not lie on the grid of {folder}: {name} of the SEG are {found.tolist()}, of the series "
                    f"{expected.tolist()}."
                )


def _functional_groups(seg: pydicom.Dataset, name: str) -> list[pydicom.Dataset]:
    """A sequence's item, shared by all frames or of each frame."""
    groups = [*seg.get("SharedFunctionalGroupsSequence", []), *seg.get("PerFrameFunctionalGroupsSequence", [])]
    return [group[name][0] for group in groups if group.get(name)]


def write_seg(
    path: Path,
    label: np.ndarray,
    names: Mapping[int, str],
    folder: Path,
    affine: np.ndarray,
    by_model: bool = False,
) -> None:
    """Write a label map as DICOM SEG.

    Args:
        path: the file.
        label: ``(I, J, K)``, integers; each value above 0 becomes a segment.
        names: value -> name.
        folder: the series it was drawn on.
        affine: of the volume read from the series.
        by_model: the segments are a model's, made with a person's prompts, and say so.

    Raises:
        CaseError: if there is no object, or the shape is not the series'.
    """
    values = [int(v) for v in np.unique(label) if v > 0]
    series = series_in_order(folder, affine)
    if not values or label.shape[2] != len(series):
        raise CaseError(f"A SEG needs an object on the {len(series)} slices of {folder}; the mask has {label.shape}.")
    frames = label.transpose(2, 1, 0)
    stack = np.stack([frames == value for value in values], -1).astype(np.uint8)
    seg = highdicom.seg.Segmentation(
        source_images=series,
        pixel_array=stack,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_segment(n, names.get(value, str(value)), by_model) for n, value in enumerate(values, 1)],
        series_instance_uid=highdicom.UID(),
        series_number=900,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="SAM-LoRA",
        manufacturer_model_name="SAM-LoRA",
        software_versions=__version__,
        device_serial_number="0",
        series_description="SAM-LoRA segmentation",
    )
    with write_aside(path) as temporary:
        seg.save_as(temporary)


def _segment(number: int, name: str, by_model: bool) -> highdicom.seg.SegmentDescription:
    kinds = highdicom.seg.SegmentAlgorithmTypeValues
    model = highdicom.AlgorithmIdentificationSequence("SAM-LoRA", codes.DCM.ArtificialIntelligence, __version__)
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=highdicom.sr.CodedConcept("123037004", "SCT", "Anatomical Structure"),
        segmented_property_type=highdicom.sr.CodedConcept("113343008", "SCT", "Organ"),
        algorithm_type=kinds.SEMIAUTOMATIC if by_model else kinds.MANUAL,
        algorithm_identification=model if by_model else None,
    )
