"""Classify one image in several DICOM encodings: the probability must be the same, to the last bit."""

from pathlib import Path

import numpy as np
from pydicom import uid
from support import dicom_files

from pneumowatch import settings
from pneumowatch.imaging.phantom import draw_phantom
from worker.in_process import classify_files


def probabilities(folder: Path) -> dict[str, float]:
    """Return {encoding: probability}, as `classify` gives it."""
    shown = np.round(draw_phantom(8, True, 640, 480).astype(np.float64) * 4095 / 255).astype(np.uint16)
    forms = {
        "MONOCHROME2": dicom_files.make_dicom(shown, bits=12),
        "MONOCHROME1": dicom_files.make_dicom(4095 - shown, bits=12, kind="MONOCHROME1"),
        "RLE": dicom_files.make_dicom(shown, uid.RLELossless, 12),
        "JPEG-LS": dicom_files.make_dicom(shown, uid.JPEGLSLossless, 12),
        "JPEG 2000": dicom_files.make_dicom(shown, uid.JPEG2000Lossless, 12),
        "HTJ2K": dicom_files.make_dicom(shown, uid.HTJ2KLossless, 12),
        "lossless JPEG": dicom_files.make_dicom(shown, uid.JPEGLosslessSV1, 12),
        "big endian": dicom_files.make_dicom(shown, uid.ExplicitVRBigEndian, 12),
        "deflated": dicom_files.make_dicom(shown, uid.DeflatedExplicitVRLittleEndian, 12),
    }
    files = []
    for name, data in forms.items():
        files.append(folder / name)
        files[-1].write_bytes(data)
    rows = classify_files(files, settings.load_settings(data_dir=folder), None)
    return {file.name: row["probability"] for file, row in zip(files, rows, strict=True)}
