"""How near a picture is to the true one: PSNR and SSIM, as scikit-image counts them.

Shapes: H rows, W columns.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WINDOW_PX = 11


def picture_quality(grey_hw: NDArray[np.uint8], truth_hw: NDArray[np.uint8]) -> dict[str, float]:
    """How near a picture is to the true one.

    Args:
        grey_hw: uint8 (H, W).
        truth_hw: uint8 (H, W), the true picture.

    Returns:
        ``psnr_db``: 10 log10(255^2 / mean squared difference), infinite if the two are equal.
        ``psnr_of_best_gain_db``: the same once the picture is multiplied by the number that makes
        it largest, since no spike tells the exposure. ``ssim``: mean structural similarity over
        Gaussian windows of 11 x 11 pixels (1.5 px, K1 0.01, K2 0.03), of whole windows alone.

    Raises:
        ValueError: the sizes differ, or are less than 11 x 11.

    Source: Wang et al., "Image Quality Assessment: From Error Visibility to Structural
    Similarity", IEEE TIP 2004.
    """
    if grey_hw.shape != truth_hw.shape or min(grey_hw.shape) < _WINDOW_PX:
        raise ValueError(
            f"pictures must be of one size, at least {_WINDOW_PX}x{_WINDOW_PX}, got "
            f"{grey_hw.shape} and {truth_hw.shape} (H, W)"
        )
    one_hw, other_hw = grey_hw.astype(np.float64), truth_hw.astype(np.float64)
    gain = float((one_hw * other_hw).sum() / max(1.0, (one_hw**2).sum()))
    return {
        "psnr_db": _psnr_db(one_hw, other_hw),
        "psnr_of_best_gain_db": _psnr_db(gain * one_hw, other_hw),
        "ssim": _ssim(one_hw, other_hw),
    }


def _psnr_db(one_hw: NDArray[np.float64], other_hw: NDArray[np.float64]) -> float:
    if np.array_equal(one_hw, other_hw):  # which it divides by
        return math.inf
    return float(_metrics().peak_signal_noise_ratio(other_hw, one_hw, data_range=255))


def _ssim(one_hw: NDArray[np.float64], other_hw: NDArray[np.float64]) -> float:
    how = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(_metrics().structural_similarity(one_hw, other_hw, data_range=255, **how))


def _metrics() -> Any:
    """Of scikit-image, some versions of which tell the types of their functions in part."""
    from skimage import metrics  # noqa: PLC0415  # loads slowly

    return metrics
