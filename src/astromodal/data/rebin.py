"""Ragged spectra onto one linear grid, with inverse variances; all objects of a batch at once.

Every input pixel is a box between the midpoints to its neighbours; an output pixel is the average of the boxes that
overlap it, weighted by overlap times inverse variance. For equal inverse variances the integral of the flux is
conserved (the method of SpectRes, Carnall 2017, arXiv:1705.05165, and of drizzle's linear reconstruction). With
weights ``w = overlap * ivar`` the variance of the average is ``sum(overlap^2 * ivar) / sum(w)^2``; covariances
between output pixels that share an input pixel are not kept.

Shapes: n objects, N input pixels in all, P output pixels.
"""

from __future__ import annotations

import numpy as np

MIN_COVERAGE = 0.25  # an output pixel needs good input over this share of its width


def pixel_edges(wave: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper edge of each pixel, ``(N,)`` float64 each: midpoints; the outer ones mirror the inner ones.

    A row of one pixel has no width and gets none.
    """
    wave = np.asarray(wave, np.float64)
    lower, upper = wave.copy(), wave.copy()
    if len(wave) > 1:
        middle = 0.5 * (wave[1:] + wave[:-1])
        lower[1:], upper[:-1] = middle, middle
    lengths = np.diff(offsets)
    first, last = offsets[:-1][lengths > 1], offsets[1:][lengths > 1] - 1
    lower[first] = 2 * wave[first] - upper[first]
    upper[last] = 2 * wave[last] - lower[last]
    single = offsets[:-1][lengths == 1]
    lower[single] = upper[single] = wave[single]
    return lower, upper


def increasing_rows(wave: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Rows whose wavelengths are finite and strictly increasing, ``(n,)`` bool; an empty row is."""
    wrong = ~np.isfinite(wave)
    with np.errstate(invalid="ignore"):
        step = np.concatenate([[True], wave[1:] > wave[:-1]]) if len(wave) else np.empty(0, bool)
    starts = np.zeros(len(wave), bool)
    starts[offsets[:-1][np.diff(offsets) > 0]] = True
    wrong |= ~step & ~starts
    total = np.concatenate([[0], np.cumsum(wrong)])
    return total[offsets[1:]] == total[offsets[:-1]]


def rebin(
    flux: np.ndarray,
    ivar: np.ndarray,
    wave: np.ndarray,
    offsets: np.ndarray,
    wave_min: float,
    wave_step: float,
    n_pixels: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average ragged spectra onto the grid of centres ``wave_min + wave_step * arange(n_pixels)``.

    Args:
        flux, ivar: ``(N,)``; pixels with ``ivar`` 0 do not count and may hold any flux.
        wave: ``(N,)`` pixel centres, increasing within each row, not necessarily evenly spaced.
        offsets: ``(n + 1,)`` row ``i`` is ``[offsets[i], offsets[i + 1])``.

    Returns:
        flux ``(n, P)`` float64, 0 where nothing is known; ivar ``(n, P)`` float64, 0 there;
        outside ``(n,)`` int64: good input pixels that lie wholly outside of the grid.
    """
    n = len(offsets) - 1
    row = np.repeat(np.arange(n), np.diff(offsets))
    low, high = pixel_edges(wave, offsets)
    origin = wave_min - 0.5 * wave_step
    low, high = (low - origin) / wave_step, (high - origin) / wave_step  # in output pixels
    good = ivar > 0
    outside = good & ((high <= 0) | (low >= n_pixels))
    keep = np.flatnonzero(good & ~outside & (high > low))
    low, high = np.clip(low[keep], 0, n_pixels), np.clip(high[keep], 0, n_pixels)
    first = np.minimum(np.floor(low).astype(np.int64), n_pixels - 1)
    count = np.maximum(np.ceil(high).astype(np.int64) - first, 1)  # output pixels that each input pixel touches
    source = np.repeat(np.arange(len(keep)), count)
    target = first[source] + np.arange(len(source)) - np.repeat(np.cumsum(count) - count, count)
    overlap = np.minimum(high[source], target + 1) - np.maximum(low[source], target)
    cell = row[keep][source] * n_pixels + target
    weight = overlap * ivar[keep].astype(np.float64)[source]
    value = flux[keep].astype(np.float64)[source]

    def total(x: np.ndarray) -> np.ndarray:
        return np.bincount(cell, x, minlength=n * n_pixels).reshape(n, n_pixels)

    covered, weights = total(overlap), total(weight)
    known = (covered >= MIN_COVERAGE) & (weights > 0)
    mean = np.divide(total(weight * value), weights, out=np.zeros((n, n_pixels)), where=known)
    # (sum w)^2 / sum(overlap w), as a product of ratios: squares of 1e40 would leave few exponents
    ratio = np.divide(weights, total(overlap * weight), out=np.zeros((n, n_pixels)), where=known)
    return mean, np.where(known, weights * ratio, 0.0), np.bincount(row, outside, minlength=n).astype(np.int64)


def neighbours(valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest valid pixel at or before, and at or after each pixel of ``valid`` (n, P); -1 and P where none is."""
    n_pixels = valid.shape[1]
    pixels = np.broadcast_to(np.arange(n_pixels), valid.shape)
    before = np.maximum.accumulate(np.where(valid, pixels, -1), axis=1)
    after = np.minimum.accumulate(np.where(valid, pixels, n_pixels)[:, ::-1], axis=1)[:, ::-1]
    return before, after


def fill_masked(values: np.ndarray, valid: np.ndarray, longest: int | None = None) -> np.ndarray:
    """``values`` (n, P) with the invalid ones interpolated from valid neighbours; 0 where a row has none.

    Args:
        longest: fill only gaps of up to so many pixels, between valid ones; the others become NaN.

    >>> fill_masked(np.array([[1.0, 99.0, 3.0, np.nan]]), np.array([[True, False, True, False]])).tolist()
    [[1.0, 2.0, 3.0, 3.0]]
    """
    if valid.all():
        return values
    n_pixels = values.shape[1]
    before, after = neighbours(valid)
    left = np.where(before < 0, after, before)
    right = np.where(after == n_pixels, before, after)
    known = np.where(valid, values, 0.0)
    rows_without = ~valid.any(1)
    left, right = np.clip(left, 0, n_pixels - 1), np.clip(right, 0, n_pixels - 1)
    low, high = np.take_along_axis(known, left, 1), np.take_along_axis(known, right, 1)
    share = (np.arange(n_pixels) - left) / np.maximum(right - left, 1)
    filled = np.where(valid, values, low + (high - low) * share)
    filled[rows_without] = 0.0
    if longest is not None:
        filled[(before < 0) | (after == n_pixels) | (after - before > longest + 1)] = np.nan
    return filled.astype(values.dtype)


def masked_median(values: np.ndarray, mask: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Weighted median of each row over the pixels in ``mask``, ``(n,)``; NaN for a row without any.

    Args:
        values: ``(n, P)``; weights: ``(n, P)`` non-negative, default 1. The smallest value at which half of the
        weight is reached.
    """
    key = np.where(mask, values, np.inf)
    order = np.argsort(key, axis=1)
    weight = np.where(mask, 1.0 if weights is None else weights, 0.0)
    largest = weight.max(axis=1, keepdims=True, initial=0.0)
    weight = weight / np.where(largest > 0, largest, 1.0)
    cumulative = np.cumsum(np.take_along_axis(weight, order, axis=1), axis=1)
    index = (cumulative < 0.5 * cumulative[:, -1:]).sum(axis=1)
    index = np.minimum(index, values.shape[1] - 1)
    result = np.take_along_axis(key, np.take_along_axis(order, index[:, None], axis=1), axis=1)[:, 0]
    return np.where(mask.any(axis=1), result, np.nan)
