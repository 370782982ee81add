"""One row with measurement errors, of few features: every entry of its matrices is a variable of the machine code.

Entries of T = V + S = L D L', of eight rows at once, then stay in vector registers or next to them. Compilers of loops
over entries do not do that, and take 4 times as long at 7 features: here the products are given one by one, some
D^3 / 6 of them for a density, and D^3 / 2 for the sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numba import types
from numba.extending import intrinsic

#: Rows of a strip: loops over rows have so many turns, for which the compiler makes vector code.
WIDTH = 64
#: Numbers from one of a row to its next. (With a power of two they all fall to few lines of the first cache.)
STRIDE = WIDTH + 8
#: Up to so many features products are given one by one.
MOST_FEATURES = 8


@dataclass(frozen=True)
class _Number:
    """A float64 of the machine code; a product and a sum may become one instruction."""

    builder: Any
    value: Any

    def __add__(self, other: _Number) -> _Number:
        return _Number(self.builder, self.builder.fadd(self.value, other.value, flags=("contract",)))

    def __sub__(self, other: _Number) -> _Number:
        return _Number(self.builder, self.builder.fsub(self.value, other.value, flags=("contract",)))

    def __mul__(self, other: _Number) -> _Number:
        return _Number(self.builder, self.builder.fmul(self.value, other.value, flags=("contract",)))

    def __truediv__(self, other: _Number) -> _Number:
        return _Number(self.builder, self.builder.fdiv(self.value, other.value))

    def __neg__(self) -> _Number:
        return _Number(self.builder, self.builder.fneg(self.value))

    def or_if(self, relation: str, other: _Number) -> _Number:
        """Return the other where that is "<", or ">", than this, and else this."""
        is_so = self.builder.fcmp_ordered(relation, other.value, self.value)
        return _Number(self.builder, self.builder.select(is_so, other.value, self.value))


class _Factors:
    """T = L D L' of row r of a strip, and z = L^-1 (x - mu).

    Attributes
    ----------
    unit : dict of (i, j) to _Number
        L below the diagonal.
    pivots, inverses, z : list of _Number
        D, 1 / D and z.
    """

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any) -> None:
        self.context, self.builder = context, builder
        self.n, n_errors = len(signature.args[0]), len(signature.args[1])
        self.row = args[2]
        kinds, given = signature.args[3:], args[3:]
        self.arrays = [context.make_array(kind)(context, builder, a).data for kind, a in zip(kinds, given, strict=True)]
        self.one = _Number(builder, context.get_constant(types.float64, 1.0))
        self.unit: dict[tuple[int, int], _Number] = {}
        self.pivots: list[_Number] = []
        self.inverses: list[_Number] = []
        self.z: list[_Number] = []
        c: dict[tuple[int, int], _Number] = {}
        for j in range(self.n):
            offset = self.of_row(0, j) - self.of_all(1, j)
            for k in range(j):
                offset = offset - self.unit[j, k] * self.z[k]
            self.z.append(offset)
            for i in range(j, self.n):
                entry = self.of_all(2, i * self.n + j)
                if n_errors != self.n:
                    entry = entry + self.of_row(0, self.n + j * self.n - j * (j - 1) // 2 + i - j)
                elif i == j:
                    entry = entry + self.of_row(0, self.n + j)
                for k in range(j):
                    entry = entry - c[i, k] * self.unit[j, k]
                if i == j:
                    self.pivots.append(entry)
                    self.inverses.append(self.one / entry)
                else:
                    c[i, j], self.unit[i, j] = entry, entry * self.inverses[j]

    def place(self, array: int, index: int, *, by_row: bool) -> Any:
        """Return where number `index` of an array of numbers, or of strips of them, is."""
        at = self.context.get_constant(types.intp, index * STRIDE if by_row else index)
        if by_row:
            at = self.builder.add(self.row, at)
        return self.builder.gep(self.arrays[array], [at], inbounds=True)

    def of_row(self, array: int, index: int) -> _Number:
        """Return number `index` of the row."""
        return _Number(self.builder, self.builder.load(self.place(array, index, by_row=True)))

    def of_all(self, array: int, index: int) -> _Number:
        """Return number `index` of what is the same for all rows."""
        return _Number(self.builder, self.builder.load(self.place(array, index, by_row=False)))

    def parts(self, number: _Number) -> tuple[Any, _Number]:
        """Return the exponent, an integer too large by 1023, and the mantissa, from 1 to 2, of a number above zero."""
        build, integer = self.builder, self.context.get_value_type(types.int64)
        bits = build.bitcast(number.value, integer)
        fraction = build.and_(bits, integer((1 << 52) - 1))
        mantissa = build.bitcast(build.or_(fraction, integer(1023 << 52)), number.value.type)
        return build.lshr(bits, integer(52)), _Number(build, mantissa)


@intrinsic
def density_parts(
    typing: Any, size: Any, entries: Any, r: Any, values: Any, mean: Any, covariance: Any, scales: Any
) -> Any:
    """Return z' D^-1 z of row r, its log-determinant, and what tells whether they are numbers.

    size, entries : tuples of n_features numbers, and of as many as a row's errors have
        Their types say what is to be compiled.
    r : int
    values : (n,), float64
        A strip: STRIDE numbers for each feature, and for each error, of which WIDTH count.
    mean, covariance, scales : (n_features,), (n_features, n_features), (n_features,), float64
        Of the component; pivots come times scales.

    Returns
    -------
    squared, mantissa, power, least, most : float
        The product of pivots is mantissa 2^power. Of pivots the least, and of pairs of them the greatest product.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row = _Factors(context, builder, signature, args)
        pivots = [pivot * row.of_all(3, j) for j, pivot in enumerate(row.pivots)]
        pairs = [a * b for a, b in zip(pivots[::2], [*pivots[1::2], row.one], strict=False)]
        squared, least, most, product, power = row.z[0] * row.z[0] * row.inverses[0], pivots[0], pairs[0], row.one, None
        for z, inverse, pivot in zip(row.z[1:], row.inverses[1:], pivots[1:], strict=True):
            squared, least = squared + z * z * inverse, least.or_if("<", pivot)
        for pair in pairs:
            exponent, mantissa = row.parts(pair)
            product, most = product * mantissa, most.or_if(">", pair)
            power = exponent if power is None else builder.add(power, exponent)
        power = builder.sub(power, context.get_constant(types.int64, 1023 * len(pairs)))
        power = builder.sitofp(power, product.value.type)
        found = [squared.value, product.value, power, least.value, most.value]
        return context.make_tuple(builder, signature.return_type, found)

    return types.UniTuple(types.float64, 5)(size, entries, types.intp, values, mean, covariance, scales), generate


@intrinsic
def add_row(
    typing: Any, size: Any, entries: Any, r: Any, values: Any, mean: Any, covariance: Any, weights: Any, sums: Any
) -> Any:  # fmt: skip
    """Add r, r u, and r (u u' - M), upper triangle, of row r, to those of its lane.

    (Sums over the turns of a loop have the compiler do four turns at once, for which there are no registers.)

    weights, sums : (WIDTH,), (n * STRIDE,), float64
        Responsibilities, and what they are added to, 1 + n_features + n_features (n_features + 1) / 2 sums a lane.
    others
        As those of `density_parts`.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row = _Factors(context, builder, signature, args)
        features, resp = range(row.n), row.of_row(3, 0)
        weighted = [resp * inverse for inverse in row.inverses]
        u = [z * inverse for z, inverse in zip(row.z, row.inverses, strict=True)]
        for a in reversed(features):
            for i in features[a + 1 :]:
                u[a] = u[a] - row.unit[i, a] * u[i]
        # M = W' D^-1 W with W = L^-1.
        inverse: dict[tuple[int, int], _Number] = {}
        scaled: dict[tuple[int, int], _Number] = {}
        for j in features:
            for i in features[j + 1 :]:
                entry = -row.unit[i, j]
                for k in range(j + 1, i):
                    entry = entry - row.unit[i, k] * inverse[k, j]
                inverse[i, j], scaled[i, j] = entry, entry * weighted[i]
        first = [resp * entry for entry in u]
        found = [resp, *first]
        for a in features:
            for b in features[a:]:
                entry = first[a] * u[b] - (weighted[a] if a == b else scaled[b, a])
                for i in features[b + 1 :]:
                    entry = entry - scaled[i, a] * inverse[i, b]
                found.append(entry)
        for index, number in enumerate(found):
            builder.store((row.of_row(4, index) + number).value, row.place(4, index, by_row=True))
        return context.get_dummy_value()

    return types.void(size, entries, types.intp, values, mean, covariance, weights, sums), generate
