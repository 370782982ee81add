"""Exponentials, softmax and what components are worth, compiled by numba: sweeps over strips of a tile."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload
from numpy.typing import NDArray

from daskgmm.mixture.arrays import Floats

#: float64 or float32, all of one call alike.
Reals = NDArray[Any]

#: Rows that pass through the loops at once: they stay in the first-level cache.
STRIP = 512


_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}


#: Sums in an order that vector code can take; it is the same in each run on a machine.
SUMS: dict[str, Any] = {"fastmath": {"contract", "reassoc"}, "error_model": "numpy"}


def _digest() -> str:
    """Return a digest of all that may be compiled, or stands in it as a constant."""
    found = sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


_SOURCES = _digest()


def compiled(function: Any) -> Any:
    """Compile a function, and keep the result on disk where that can be written to."""
    try:
        made = njit(cache=True, **_OPTIONS)(function)
        # (numba asks whether the function's own file is the same; what it calls is compiled into it from others.)
        kept = made._cache._cache_file
        kept._source_stamp = kept._source_stamp, _SOURCES
    except (RuntimeError, AttributeError):
        # Nowhere to keep the result, or a numba that keeps it otherwise: each process compiles anew, some seconds.
        return njit(**_OPTIONS)(function)
    return made


def _exp(x: Any) -> Any:
    """Return exp(x) for x in [-100, 0] (float32: [-60, 0]) to one unit in the last place, as vector code."""
    raise NotImplementedError


# x = k log 2 + r. Adding 1.5 * 2^52 rounds to the integer k, which is then also in the low bits of the sum. exp(r) is
# 1 + r + r^2 q(r), q of degree 9 through the Chebyshev nodes of |r| <= log(2) / 2 (to 2e-17), in pairs (Estrin 1960):
# few steps wait for the one before. (float32: the coefficients of Cephes, to r^7.)
_MAGIC, _MAGIC_SINGLE = 6755399441055744.0, np.float32(12582912.0)


_LOG2E, _LOG2E_SINGLE = 1.4426950408889634, np.float32(1.44269504)


_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10


_LN2_HIGH_SINGLE, _LN2_LOW_SINGLE = np.float32(0.693359375), np.float32(-2.12194440e-4)


_D0, _D1, _D2 = 0.5000000000000001, 0.16666666666666669, 0.041666666666624164


_D3, _D4, _D5 = 0.008333333333330065, 0.001388888891719689, 0.00019841269863040675


_D6, _D7 = 2.480152132210459e-05, 2.7557268480106926e-06


_D8, _D9 = 2.762007600563138e-07, 2.5100375929185925e-08


_ONE_SINGLE = np.float32(1.0)


_C2, _C3, _C4 = np.float32(0.50000001201), np.float32(0.16666665459), np.float32(0.041665795894)


_C5, _C6, _C7 = np.float32(0.0083334519073), np.float32(0.0013981999507), np.float32(0.00019875691500)


def _exp_double(x: Any) -> Any:
    t = x * _LOG2E + _MAGIC
    k = t - _MAGIC
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    r2 = r * r
    r4 = r2 * r2
    low = (_D0 + _D1 * r) + r2 * (_D2 + _D3 * r)
    high = (_D4 + _D5 * r) + r2 * (_D6 + _D7 * r)
    p = 1.0 + (r + r2 * (low + r4 * (high + r4 * (_D8 + _D9 * r))))
    exponent = (np.float64(t).view(np.int64) << np.int64(52)) + (np.int64(1023) << np.int64(52))
    return p * np.int64(exponent).view(np.float64)


def _exp_single(x: Any) -> Any:
    t = x * _LOG2E_SINGLE + _MAGIC_SINGLE
    k = t - _MAGIC_SINGLE
    r = (x - k * _LN2_HIGH_SINGLE) - k * _LN2_LOW_SINGLE
    p = _C7
    p = p * r + _C6
    p = p * r + _C5
    p = p * r + _C4
    p = p * r + _C3
    p = p * r + _C2
    p = (p * r) * r + r + _ONE_SINGLE
    exponent = np.int32((np.float32(t).view(np.int32) << 23) + (127 << 23))
    return p * exponent.view(np.float32)


@overload(_exp, inline="always")
def _exp_by_type(x: Any) -> Any:
    return _exp_single if x == types.float32 else _exp_double


@njit(inline="always")
def _log(x: float) -> float:
    """Return log(x) for a normal x > 0, as vector code: the method of FreeBSD's e_log.c (Sun Microsystems 1993)."""
    shift = np.int64(0x3FF00000 - 0x3FE6A09E) << np.int64(32)
    bits = np.float64(x).view(np.int64) + shift
    k = np.float64((bits >> np.int64(52)) - np.int64(1023))
    mantissa = (bits & np.int64(0x000FFFFFFFFFFFFF)) + (np.int64(0x3FE6A09E) << np.int64(32))
    f = np.int64(mantissa).view(np.float64) - 1.0
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    odd = w * (0.3999999999940941908 + w * (0.2222219843214978396 + w * 0.1531383769920937332))
    even = w * (0.2857142874366239149 + w * (0.1818357216161805012 + w * 0.1479819860511658591))
    r = z * (0.6666666666666735130 + even) + odd
    half = 0.5 * f * f
    return s * (half + r) + k * _LN2_LOW - half + f + k * _LN2_HIGH


@compiled
def softmax(density: Reals, weights: Floats, log_likelihood: Floats, scratch: Reals, smallest: Any) -> None:
    """Turn log-densities into responsibilities times row weights, in place.

    Parameters
    ----------
    density : (n_components, n_rows), float64 or float32
        Log of weight times density. Responsibilities below exp(smallest) become exact zeros.
    weights : (n_rows,), float64; (0,) where every row weighs 1
    log_likelihood : (n_rows,), float64
        Written: log-sum-exp of each row, nats.
    scratch : (2, n_rows), dtype of density
    smallest : scalar, dtype of density
        Log of the smallest responsibility.
    """
    n_components, n_rows = density.shape
    for low in range(0, n_rows, STRIP):
        highest, total = scratch[0, low : low + STRIP], scratch[1, low : low + STRIP]
        out = log_likelihood[low : low + STRIP]
        n = len(out)
        first = density[0, low : low + STRIP]
        for i in range(n):
            highest[i] = first[i]
            total[i] = 0
        for k in range(1, n_components):
            row = density[k, low : low + STRIP]
            for i in range(n):
                highest[i] = row[i] if row[i] > highest[i] else highest[i]
        for k in range(n_components):
            row = density[k, low : low + STRIP]
            for i in range(n):
                below = row[i] - highest[i]
                value = _exp(smallest if below <= smallest else below)
                # Exact zeros, and no denormals, which made a pass 10 to 100 times slower; a NaN stays one.
                row[i] = 0 if below <= smallest else value
                total[i] += row[i]
        for i in range(n):
            # (The bits of a NaN have a logarithm; the difference makes it a NaN again.)
            out[i] = np.float64(highest[i]) + _log(np.float64(total[i])) + np.float64(total[i] - total[i])
            total[i] = 1 / total[i]
        if len(weights):
            w = weights[low : low + STRIP]
            for i in range(n):
                total[i] *= w[i]
        for k in range(n_components):
            row = density[k, low : low + STRIP]
            for i in range(n):
                row[i] *= total[i]


@compiled
def label(density: Reals, highest: Reals, out: NDArray[np.int64]) -> None:
    """Write the number of the largest of each column, (n_rows,), the first of equal ones; `highest` is a buffer."""
    n_components, n_rows = density.shape
    for low in range(0, n_rows, STRIP):
        best, found = highest[low : low + STRIP], out[low : low + STRIP]
        n = len(best)
        first = density[0, low : low + STRIP]
        for i in range(n):
            best[i] = first[i]
            found[i] = 0
        for k in range(1, n_components):
            row = density[k, low : low + STRIP]
            for i in range(n):
                found[i] = k if row[i] > best[i] else found[i]
                best[i] = max(row[i], best[i])


@njit(**SUMS)
def add_totals(log_likelihood: Floats, weights: Floats, total: Floats, correction: Floats) -> None:
    """Add the weighted sum of the log-likelihoods, and that of the row weights, to total, (2,), compensated."""
    log_sum, weight = 0.0, 0.0
    if len(weights):
        for i in range(len(log_likelihood)):
            log_sum += log_likelihood[i] * weights[i]
            weight += weights[i]
    else:
        for i in range(len(log_likelihood)):
            log_sum += log_likelihood[i]
        weight += len(log_likelihood)
    for i, value in ((0, log_sum), (1, weight)):
        less = value - correction[i]
        new = total[i] + less
        correction[i] = (new - total[i]) - less
        total[i] = new


@njit(**SUMS)
def _sum(values: Reals) -> float:
    total = 0.0
    for i in range(len(values)):
        total += values[i]
    return total


@njit(**SUMS)
def _dot(values: Reals, weights: Floats) -> float:
    total = 0.0
    for i in range(len(values)):
        total += values[i] * weights[i]
    return total


@njit(**SUMS)
def _product_of_rests(values: Reals) -> float:
    """Return the product of 1 - r of a strip, r at most 1/2: no less than 2^-STRIP."""
    product = 1.0
    for i in range(len(values)):
        product *= 1.0 - values[i]
    return product


@compiled
def leave_out(
    density: Floats,
    weights: Floats,
    log_likelihood: Floats,
    log_largest: Floats,
    entropy: Floats,
    scratch: Floats,
    top: NDArray[np.int64],
    smallest: float,
    lost: Floats,
    resp_sums: Floats,
) -> None:
    """Do what `support.leave_out` does, strip by strip.

    Parameters
    ----------
    density : (n_components, n_rows), float64
        Log of weight times density; overwritten.
    weights : (n_rows,), float64; (0,) where every row weighs 1
    log_likelihood, log_largest, entropy : (n_rows,), float64
        Written.
    scratch, top : (3, n_rows), float64; (n_rows,), int64
        Buffers.
    smallest : float
        Log of the smallest responsibility.
    lost, resp_sums : (n_components,), float64
        Written.
    """
    n_components, n_rows = density.shape
    for k in range(n_components):
        lost[k] = 0
        resp_sums[k] = 0
    for low in range(0, n_rows, STRIP):
        highest, base = scratch[0, low : low + STRIP], scratch[1, low : low + STRIP]
        rest, at = scratch[2, low : low + STRIP], top[low : low + STRIP]
        out, sure, w = log_likelihood[low : low + STRIP], log_largest[low : low + STRIP], weights[low : low + STRIP]
        spread = entropy[low : low + STRIP]
        n = len(highest)
        for i in range(len(w)):
            if w[i] == 0:  # (such a row may have no density that is a number)
                for k in range(n_components):
                    density[k, low + i] = 0
        for i in range(n):
            highest[i] = -np.inf
            base[i] = -np.inf
            rest[i] = 0
            spread[i] = 0
            at[i] = 0
        for k in range(n_components):
            row = density[k, low : low + STRIP]
            for i in range(n):
                value = row[i]
                is_top = value > highest[i]
                lower = highest[i] if is_top else value
                base[i] = lower if lower > base[i] else base[i]
                at[i] = k if is_top else at[i]
                highest[i] = value if is_top else highest[i]
        for i in range(n):
            base[i] = base[i] if base[i] > -np.inf else 0.0
        for k in range(n_components):
            row = density[k, low : low + STRIP]
            for i in range(n):
                below = row[i] - base[i]
                below = below if below < 0.0 else 0.0
                value = _exp(smallest if below <= smallest else below)
                value = 0.0 if below <= smallest else value
                row[i] = 0.0 if at[i] == k else value
                rest[i] += row[i]
                spread[i] -= row[i] * (below if below > smallest else smallest)
        for i in range(n):
            # Of the others, and of the largest: log(e^a + e^b) = max + log(1 + e^-|a - b|).
            log_rest = _log(rest[i] if rest[i] > 0 else 1.0)
            others = base[i] + log_rest
            apart = others - highest[i] if rest[i] > 0 else -np.inf
            away = -apart if apart > 0 else apart
            ratio = _exp(smallest if away <= smallest else away)
            ratio = 0.0 if away <= smallest else ratio
            both = _log(1.0 + ratio)
            sure[i] = (-apart if apart > 0 else 0.0) - both
            out[i] = highest[i] - sure[i]
            of_others = 1.0 / (1.0 + ratio) if apart > 0 else ratio / (1.0 + ratio)
            base[i] = (apart if apart < 0 else 0.0) - both if rest[i] > 0 else 0.0  # log of 1 - r of the largest
            highest[i] = ratio / (1.0 + ratio) if apart > 0 else 1.0 / (1.0 + ratio)
            within = log_rest + spread[i] / (rest[i] if rest[i] > 0 else 1.0) - base[i]
            # (log(1 + ratio) to all its digits where ratio is small: Kahan's.)
            whole = 1.0 + ratio
            log_whole = both * (ratio / (whole - 1.0)) if whole > 1.0 else ratio
            of_largest = highest[i] * (apart + both if apart > 0 else log_whole)
            spread[i] = of_largest + (of_others * within if rest[i] > 0 else 0.0)
            rest[i] = of_others / (rest[i] if rest[i] > 0 else 1.0)
        for k in range(n_components):
            row = density[k, low : low + STRIP]
            for i in range(n):
                row[i] *= rest[i]
            if len(w):
                resp_sums[k] += _dot(row, w)
                for i in range(n):
                    row[i] = _log(1.0 - row[i])
                lost[k] -= _dot(row, w)
            else:
                resp_sums[k] += _sum(row)
                lost[k] -= np.log(_product_of_rests(row))
        if len(w):
            for i in range(n):
                resp_sums[at[i]] += w[i] * highest[i]
                lost[at[i]] -= w[i] * base[i]
        else:
            for i in range(n):
                resp_sums[at[i]] += highest[i]
                lost[at[i]] -= base[i]
