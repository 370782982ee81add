"""The E-step of a block in one call, compiled by numba: where the extra `compiled` is installed, and only there.

NumPy passes over a block some ten times and takes the interpreter's lock between: with few features, where a pass is
short, two threads are then no faster than one. Here softmax is one sweep (1.5 ns an entry instead of 3.4) and a whole
block one call without the lock (two threads, D = 2, K = 8: 3.1 ns a row and component each instead of 9; D = 8, K = 16:
8 instead of 19). Formulas, guard and statistics are those of `estep.py`; only last bits differ.

Loops run over slices that begin at 0 and call nothing, or LLVM does not make vector code of them.
"""

from __future__ import annotations

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
#: Up to so many numbers in Phi (4 of the data, full) plain loops beat BLAS, by up to 3 times for the sums.
SMALL_PHI = 16

_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}
#: Sums in an order that vector code can take; it is the same in each run on a machine.
_SUMS: dict[str, Any] = {"fastmath": {"contract", "reassoc"}, "error_model": "numpy"}


def _compile(function: Any) -> Any:
    try:
        return njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # nowhere to keep the result: each process compiles anew, some seconds
        return njit(**_OPTIONS)(function)


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


@_compile
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


@njit(**_SUMS)
def _sum(values: Reals) -> float:
    total = 0.0
    for i in range(len(values)):
        total += values[i]
    return total


@njit(**_SUMS)
def _dot(values: Reals, weights: Floats) -> float:
    total = 0.0
    for i in range(len(values)):
        total += values[i] * weights[i]
    return total


@njit(**_SUMS)
def _product_of_rests(values: Reals) -> float:
    """Return the product of 1 - r of a strip, r at most 1/2: no less than 2^-STRIP."""
    product = 1.0
    for i in range(len(values)):
        product *= 1.0 - values[i]
    return product


@_compile
def leave_out(
    density: Floats,
    weights: Floats,
    log_likelihood: Floats,
    log_largest: Floats,
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
    log_likelihood, log_largest : (n_rows,), float64
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
        n = len(highest)
        for i in range(len(w)):
            if w[i] == 0:  # (such a row may have no density that is a number)
                for k in range(n_components):
                    density[k, low + i] = 0
        for i in range(n):
            highest[i] = -np.inf
            base[i] = -np.inf
            rest[i] = 0
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
        for i in range(n):
            # Of the others, and of the largest: log(e^a + e^b) = max + log(1 + e^-|a - b|).
            others = base[i] + _log(rest[i] if rest[i] > 0 else 1.0)
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


@njit(inline="always")
def _fill(x: Floats, origin: Floats, products: NDArray[np.int64], shifted: Reals, phi: Reals, begin: int) -> None:
    """Fill rows `begin` and on of Phi(x - origin): products of features, then the features, then 1."""
    n_features, n_rows = x.shape
    n_products = products.shape[1]
    if begin == 0:
        for j in range(n_features):
            feature, row = x[j], shifted[j]
            for i in range(n_rows):
                row[i] = feature[i] - origin[j]  # in float64, then rounded
    for f in range(begin, begin + phi.shape[0]):
        row = phi[f - begin]
        if f < n_products:
            a, b = shifted[products[0, f]], shifted[products[1, f]]
            for i in range(n_rows):
                row[i] = a[i] * b[i]
        elif f < n_products + n_features:
            a = shifted[f - n_products]
            for i in range(n_rows):
                row[i] = a[i]
        else:
            for i in range(n_rows):
                row[i] = 1


@_compile
def add(total: Floats, correction: Floats, values: Reals) -> None:
    """Add values to total, all (n,), compensated: `Statistics.add` in one sweep, from float32 too."""
    for i in range(len(total)):
        value = np.float64(values[i]) - correction[i]
        new = total[i] + value
        correction[i] = (new - total[i]) - value
        total[i] = new


@njit(**_SUMS)
def _add_squares(z: Floats, first: int, height: int, out: Floats) -> None:
    """Add the squares of z's rows from `first` on to out, (n_rows,)."""
    for d in range(first, first + height):
        row = z[d]
        for i in range(len(out)):
            out[i] += row[i] * row[i]


@_compile
def stacked_density(
    shifted: Floats,
    first: Floats,
    second: Floats,
    third: Floats,
    fourth: Floats,
    log_constants: Floats,
    height: int,
    group: int,
    z: Floats,
    out: Floats,
) -> None:
    """Do what `Stack.log_density` does, of its four matrices, in one call."""
    n, keep = len(out), z.shape[1] == len(out) * height
    out[:] = 0.0
    for low in range(0, n, group):
        high = min(low + group, n)
        begin = low * height if keep else 0
        end, rows = begin + (high - low) * height, slice(low * height, high * height)
        np.dot(first[rows], shifted[: first.shape[1]], z[0, begin:end])
        np.dot(second[rows], shifted[: second.shape[1]], z[1, begin:end])
        np.dot(third[rows], shifted[: third.shape[1]], z[2, begin:end])
        np.dot(fourth[rows], shifted[: fourth.shape[1]], z[3, begin:end])
        for k in range(low, high):
            for part in range(4):
                _add_squares(z[part], begin + (k - low) * height, height, out[k])
            for i in range(out.shape[1]):
                out[k, i] = log_constants[k] - 0.5 * out[k, i]


#: Up to so many rows plain loops add their products up faster than BLAS does.
FEW_FOR_LOOPS = 16


@_compile
def exact_sums(
    z: Floats,
    height: int,
    components: NDArray[np.int64],
    resp: Reals,
    few: Floats,
    second: Floats,
    out: Floats,
) -> None:
    """Write the exact form's sums of stacked components, over the rows whose responsibility is not zero.

    z is what `stacked_density` wrote; `few` (z.size of a component) and `second` (n_features, n_features) are scratch.
    """
    n_features, n_rows = len(second), z.shape[2]
    rows, roots = np.empty(n_rows, dtype=np.int64), np.empty(n_rows)
    for place in range(len(components)):
        own, sums = resp[components[place]], out[components[place]]
        n = 0
        for i in range(n_rows):
            rows[n] = i
            roots[n] = np.sqrt(np.float64(own[i]))
            n += own[i] > 0
        if n == 0:  # (a BLAS may leave the result of an empty product as it was)
            sums[:] = 0.0
            continue
        scaled = few[: n_features * n].reshape(n_features, n)
        for d in range(n_features):
            line, row = z[d // height, place * height + d % height], scaled[d]
            if n == n_rows:
                for i in range(n):
                    row[i] = roots[i] * line[i]
            else:
                for i in range(n):
                    row[i] = roots[i] * line[rows[i]]
        last = len(sums) - 1 - n_features
        np.dot(scaled, roots[:n], sums[last : last + n_features])
        sums[-1] = np.dot(roots[:n], roots[:n])
        if n > FEW_FOR_LOOPS:
            np.dot(scaled, scaled.T, second)
        begin = 0
        for d in range(n_features):
            panel = sums[begin : begin + n_features - d]
            for e in range(d, n_features):
                if n > FEW_FOR_LOOPS:
                    panel[e - d] = second[d, e]
                else:
                    total = 0.0
                    for i in range(n):
                        total += scaled[d, i] * scaled[e, i]
                    panel[e - d] = total
            begin += n_features - d


@njit(**_SUMS)
def _small_density(eta: Reals, phi: Reals, density: Reals) -> None:
    """Write eta' Phi to density, four features at a time; the last feature is 1."""
    (n_phi, n_components), n_rows = eta.shape, phi.shape[1]
    for low in range(0, n_rows, STRIP):
        for k in range(n_components):
            row = density[k, low : low + STRIP]
            n, constant = len(row), eta[n_phi - 1, k]
            for i in range(n):
                row[i] = constant
            f = 0
            while f + 4 < n_phi:
                a, b = phi[f, low : low + STRIP], phi[f + 1, low : low + STRIP]
                c, d = phi[f + 2, low : low + STRIP], phi[f + 3, low : low + STRIP]
                p, q, r, s = eta[f, k], eta[f + 1, k], eta[f + 2, k], eta[f + 3, k]
                for i in range(n):
                    row[i] += p * a[i] + q * b[i] + r * c[i] + s * d[i]
                f += 4
            while f + 1 < n_phi:
                a, p = phi[f, low : low + STRIP], eta[f, k]
                for i in range(n):
                    row[i] += p * a[i]
                f += 1


@njit(**_SUMS)
def _small_sums(resp: Reals, phi: Reals, sums: Reals) -> None:
    """Write resp Phi' to sums, four features at a time; the last feature is 1."""
    (n_components, n_rows), n_phi = resp.shape, len(phi)
    zero = resp[0, 0] * 0
    sums[...] = 0
    for low in range(0, n_rows, STRIP):
        for k in range(n_components):
            row, out = resp[k, low : low + STRIP], sums[k]
            n, f = len(row), 0
            while f + 4 < n_phi:
                a, b = phi[f, low : low + STRIP], phi[f + 1, low : low + STRIP]
                c, d = phi[f + 2, low : low + STRIP], phi[f + 3, low : low + STRIP]
                p, q, r, s = zero, zero, zero, zero
                for i in range(n):
                    p += row[i] * a[i]
                    q += row[i] * b[i]
                    r += row[i] * c[i]
                    s += row[i] * d[i]
                out[f] += p
                out[f + 1] += q
                out[f + 2] += r
                out[f + 3] += s
                f += 4
            while f + 1 < n_phi:
                a, p = phi[f, low : low + STRIP], zero
                for i in range(n):
                    p += row[i] * a[i]
                out[f] += p
                f += 1
            p = zero
            for i in range(n):
                p += row[i]
            out[n_phi - 1] += p


@_compile
def log_density(
    x: Floats,
    origin: Floats,
    products: NDArray[np.int64],
    fill: bool,
    eta: Reals,
    shifted: Reals,
    phi: Reals,
    part: Reals,
    density: Reals,
) -> None:
    """Write the log of weight times density of a block, eta' Phi, to `density`; parameters as of `add_tile`."""
    (n_phi, n_components), (n_panel, n_rows) = eta.shape, phi.shape
    for begin in range(0, n_phi, n_panel):
        end = min(begin + n_panel, n_phi)
        panel = phi[: end - begin]
        if fill:
            _fill(x, origin, products, shifted, panel, begin)
        if n_phi <= SMALL_PHI:
            _small_density(eta, phi, density)
        elif begin == 0:
            np.dot(eta[begin:end].T, panel, density)
        else:
            more = part[: n_components * n_rows].reshape(n_components, n_rows)
            np.dot(eta[begin:end].T, panel, more)
            for k in range(n_components):
                row, other = density[k], more[k]
                for i in range(n_rows):
                    row[i] += other[i]


@_compile
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


@njit(**_SUMS)
def _add_totals(log_likelihood: Floats, weights: Floats, total: Floats, correction: Floats) -> None:
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


@_compile
def add_tile(
    x: Floats,
    origin: Floats,
    products: NDArray[np.int64],
    fill: bool,
    eta: Reals,
    shifted: Reals,
    phi: Reals,
    part: Reals,
    density: Reals,
    weights: Floats,
    log_likelihood: Floats,
    scratch: Reals,
    smallest: Any,
    total: Floats,
    correction: Floats,
) -> None:
    """Do the E-step of a tile by Phi, and add its sums to those of a candidate.

    Phi is made in panels of as many features as `phi` has rows; where it takes more than one (many features: a whole
    Phi would fall out of the cache) each is made twice, for the density and for the sums.

    Parameters
    ----------
    x : (n_features, n_rows), float64
    origin : (n_features,), float64
    products : (2, n_products), int64
        The features of each product, which come first in Phi.
    fill : bool
        Whether Phi is to be filled; False where another candidate has done it, in one panel.
    eta : (n_phi, n_components), float64 or float32
        Natural parameters, transposed. What follows has its dtype, unless said otherwise.
    shifted, phi, part, density : (n_features, n_rows), (n_panel, n_rows), (n,), (n_components, n_rows)
        Buffers; n is n_components times the larger of n_panel and n_rows.
    weights, log_likelihood, scratch, smallest
        See `softmax`.
    total, correction : (n_components * n_phi + 3,), float64
        The compensated sums of responsibilities, times row weights, times Phi; of log-likelihood and row weights. (The
        last, a number of rows, is left alone.)
    """
    (n_phi, n_components), n_panel = eta.shape, len(phi)
    log_density(x, origin, products, fill, eta, shifted, phi, part, density)
    softmax(density, weights, log_likelihood, scratch, smallest)
    for begin in range(0, n_phi, n_panel):
        end = min(begin + n_panel, n_phi)
        panel = phi[: end - begin]
        if n_panel < n_phi:
            _fill(x, origin, products, shifted, panel, begin)
        sums = part[: n_components * (end - begin)].reshape(n_components, end - begin)
        if n_phi <= SMALL_PHI:
            _small_sums(density, phi, sums)
        else:
            np.dot(density, panel.T, sums)
        for k in range(n_components):
            low, high = k * n_phi + begin, k * n_phi + end
            add(total[low:high], correction[low:high], sums[k])
    _add_totals(log_likelihood, weights, total[-3:-1], correction[-3:-1])


@_compile
def add_block(
    x: Floats,
    length: int,
    tile: Floats,
    origin: Floats,
    products: NDArray[np.int64],
    eta: Reals,
    shifted: Reals,
    phi: Reals,
    part: Reals,
    density: Reals,
    weights: Floats,
    log_likelihood: Floats,
    scratch: Reals,
    smallest: Any,
    total: Floats,
    correction: Floats,
) -> None:
    """Do `add_tile` for all tiles of a block, (n_features, n_rows), of `length` rows each (the last may have fewer).

    The buffer `tile` is as large as one, flat; the others are those of `add_tile`.
    """
    n_features, n_rows = x.shape
    n_components, n_panel = eta.shape[1], len(phi)
    flat_shifted, flat_phi, flat_density = shifted.reshape(-1), phi.reshape(-1), density.reshape(-1)
    for low in range(0, n_rows, length):
        n = min(length, n_rows - low)
        rows = tile[: n_features * n].reshape(n_features, n)
        for j in range(n_features):
            source, target = x[j, low : low + n], rows[j]
            for i in range(n):
                target[i] = source[i]
        add_tile(
            rows, origin, products, True, eta,
            flat_shifted[: n_features * n].reshape(n_features, n), flat_phi[: n_panel * n].reshape(n_panel, n), part,
            flat_density[: n_components * n].reshape(n_components, n), weights[low : low + n], log_likelihood[:n],
            scratch, smallest, total, correction,
        )  # fmt: skip
