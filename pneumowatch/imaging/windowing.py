"""Transform the stored values of a DICOM object to gray levels: modality and VOI transformation (PS3.3 C.11).

Each step depends on a single pixel's value only. So it is computed once per value and looked up for each pixel: an
image of eight million pixels has at most 65,536 values.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]

WHITE_LEVEL: Final = 255.0


def to_gray(stored: NDArray[Any], dataset: Any) -> NDArray[np.uint8]:
    """Transform monochrome stored values (height, width), of an integer type, to gray levels, 0 black and 255 white.

    Applies the modality LUT or the rescale. Then it applies the first VOI LUT, else the first window, else the range of
    the values that occur. Padding is excluded from that range and shown black. MONOCHROME1 and an inverse presentation
    LUT are inverted.
    """
    lowest, highest = int(stored.min()), int(stored.max())
    levels = np.arange(lowest, highest + 1)
    occurs = np.bincount((stored.astype(np.int64) - lowest).ravel(), minlength=len(levels)) > 0
    padding = _padding(levels, dataset)
    picture = occurs & ~padding
    gray = np.zeros(len(levels)) if not picture.any() else _display(levels, picture, dataset)
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE":
        gray = WHITE_LEVEL - gray
    gray[padding] = 0
    table = np.round(gray).astype(np.uint8)
    return table[stored.astype(np.int64) - lowest]


def _display(levels: NDArray[np.int64], picture: NDArray[np.bool_], dataset: Any) -> _Floats:
    """Return the gray level of each value, 0 to 255, as floats."""
    values = _modality(levels, dataset)
    table = _first(dataset, "VOILUTSequence")
    if table is not None:
        return _looked_up(values, table) / (2 ** _bits(table) - 1) * WHITE_LEVEL
    window = _window(dataset)
    if window is not None:
        return _windowed(values, *window, str(dataset.get("VOILUTFunction") or "LINEAR"))
    low, high = values[picture].min(), values[picture].max()
    return np.clip((values - low) / ((high - low) or 1.0), 0, 1) * WHITE_LEVEL


def _modality(levels: NDArray[np.int64], dataset: Any) -> _Floats:
    table = _first(dataset, "ModalityLUTSequence")
    if table is not None:
        return _looked_up(levels.astype(np.float64), table)
    slope, intercept = (_number(dataset.get(name)) for name in ("RescaleSlope", "RescaleIntercept"))
    return levels.astype(np.float64) * (1.0 if slope is None else slope) + (intercept or 0.0)


def _looked_up(values: _Floats, table: Any) -> _Floats:
    """Look values up in a LUT; those below the first entry take the first, those above the last (PS3.3 C.11.1.1)."""
    entries = _entries(table)
    return entries[np.clip(values.astype(np.int64) - int(table.LUTDescriptor[1]), 0, len(entries) - 1)]


def _entries(table: Any) -> _Floats:
    count = int(table.LUTDescriptor[0]) or 2**16
    data = table.LUTData
    if isinstance(data, bytes):
        order = "<" if table.original_encoding[1] else ">"
        data = np.frombuffer(data, f"{order}u2" if len(data) >= 2 * count else "u1")
    return np.asarray(data, np.float64)[:count]


def _bits(table: Any) -> int:
    """Return the bits of a LUT's output. Where the descriptor claims more than the entries have, the entries count."""
    claimed, needed = int(table.LUTDescriptor[2]), int(_entries(table).max()).bit_length()
    return claimed if 0 <= claimed - needed <= 1 else needed


def _windowed(values: _Floats, center: float, width: float, function: str) -> _Floats:
    """Apply a window, linear or sigmoid (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    if function == "SIGMOID":
        return WHITE_LEVEL / (1 + np.exp(np.clip(-4 * (values - center) / width, -500, 500)))
    if function != "LINEAR_EXACT":
        center, width = center - 0.5, width - 1
    if width <= 0:  # a LINEAR window of width 1 is a threshold
        return np.where(values > center, WHITE_LEVEL, 0.0)
    return np.clip((values - center) / width + 0.5, 0, 1) * WHITE_LEVEL


def _window(dataset: Any) -> tuple[float, float] | None:
    """Return centre and width of the first window; None where there is no valid one."""
    pair = [_number(dataset.get(name)) for name in ("WindowCenter", "WindowWidth")]
    center, width = pair
    if center is None or width is None or not np.isfinite([center, width]).all():
        return None
    exact = dataset.get("VOILUTFunction") in ("LINEAR_EXACT", "SIGMOID")
    return (center, width) if (width > 0 if exact else width >= 1) else None


def _padding(levels: NDArray[np.int64], dataset: Any) -> NDArray[np.bool_]:
    value, limit = (_number(dataset.get(name)) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
    if value is None:
        return np.zeros(len(levels), bool)
    low, high = sorted((value, value if limit is None else limit))
    return (levels >= low) & (levels <= high)


def _number(value: Any) -> float | None:
    """Return the number, or the first of several; None where there is none."""
    if value is None or isinstance(value, str | bytes):
        return None
    try:
        return float(value[0]) if hasattr(value, "__len__") and len(value) else float(value)
    except (TypeError, ValueError):
        return None


def _first(dataset: Any, keyword: str) -> Any:
    sequence = dataset.get(keyword)
    return sequence[0] if sequence else None
