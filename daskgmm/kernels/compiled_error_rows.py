"""Eight rows with measurement errors, of few features: every entry of their matrices is a variable of the machine code.

Entries of T = V + S = L D L', of eight rows at once, then stay in vector registers or next to them. Compilers of loops
over entries do not do that, and take 5 times as long at 7 features: here the products are given one by one, some
D^3 / 6 of them for a density, and D^3 / 2 for the sums. Compilers mostly keep their order: what is independent of each
other stands together, and what is used up is stored at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

#: Rows of a strip: loops over rows have so many turns, for which the compiler makes vector code.
WIDTH = 64
#: Numbers from one of a row to its next. (With a power of two they all fall to few lines of the first cache.)
STRIDE = WIDTH + 8
#: Rows of which numbers are computed at once; without registers of 512 bits, in halves, and no slower than four.
LANES = 8
#: Numbers of a row that `density_parts` writes.
N_PARTS = 5
#: Up to so many features products are given one by one.
MOST_FEATURES = 8

_REALS, _INTEGERS = ir.VectorType(ir.DoubleType(), LANES), ir.VectorType(ir.IntType(64), LANES)


@dataclass(frozen=True)
class _Number:
    """A float64 of each of LANES rows; a product and a sum may become one instruction."""

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
    """T = L D L' of rows of a strip, from r on, and z = L^-1 (x - mu).

    Attributes
    ----------
    unit : dict of (i, j) to _Number
        L below the diagonal.
    pivots, inverses, z : list of _Number
        D, 1 / D and z.
    inverse : dict of (i, j) to _Number
        L^-1 below the diagonal, if asked for.
    """

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any, *, inverts: bool) -> None:
        self.context, self.builder = context, builder
        self.n, n_errors = len(signature.args[0]), len(signature.args[1])
        self.row = args[2]
        kinds, given = signature.args[3:], args[3:]
        self.arrays = [context.make_array(kind)(context, builder, a).data for kind, a in zip(kinds, given, strict=True)]
        self.one = _Number(builder, _REALS([1.0] * LANES))
        self.unit: dict[tuple[int, int], _Number] = {}
        self.inverse: dict[tuple[int, int], _Number] = {}
        self.pivots: list[_Number] = []
        self.inverses: list[_Number] = []
        self.z: list[_Number] = []
        c: dict[tuple[int, int], _Number] = {}
        for j in range(self.n):
            for i in range(j, self.n):
                entry = self.of_all(2, i * self.n + j)
                if n_errors != self.n:
                    entry = entry + self.of_row(0, self.n + j * self.n - j * (j - 1) // 2 + i - j)
                elif i == j:
                    entry = entry + self.of_row(0, self.n + j)
                for k in range(j):
                    entry = entry - c[i, k] * self.unit[j, k]
                c[i, j] = entry
            self.pivots.append(c[j, j])
            self.inverses.append(self.one / c[j, j])
            # While the division takes its time:
            offset = self.of_row(0, j) - self.of_all(1, j)
            for k in range(j):
                offset = offset - self.unit[j, k] * self.z[k]
            self.z.append(offset)
            for i in range(j if inverts else 0):
                entry = -self.unit[j, i]
                for k in range(i + 1, j):
                    entry = entry - self.unit[j, k] * self.inverse[k, i]
                self.inverse[j, i] = entry
            for i in range(j + 1, self.n):
                self.unit[i, j] = c[i, j] * self.inverses[j]

    def place(self, array: int, index: int) -> Any:
        """Return where number `index` of an array is."""
        return self.builder.gep(self.arrays[array], [self.context.get_constant(types.intp, index)], inbounds=True)

    def place_of_rows(self, array: int, index: int) -> Any:
        """Return where the rows' number `index` is, of an array of strips of them."""
        at = self.builder.gep(self.place(array, index * STRIDE), [self.row], inbounds=True)
        return self.builder.bitcast(at, _REALS.as_pointer())

    def of_row(self, array: int, index: int) -> _Number:
        """Return number `index` of the rows."""
        return _Number(self.builder, self.builder.load(self.place_of_rows(array, index), align=8))

    def of_all(self, array: int, index: int) -> _Number:
        """Return number `index` of what is the same for all rows."""
        nothing, first = _REALS(ir.Undefined), ir.VectorType(ir.IntType(32), LANES)([0] * LANES)
        found = self.builder.insert_element(nothing, self.builder.load(self.place(array, index)), ir.IntType(32)(0))
        return _Number(self.builder, self.builder.shuffle_vector(found, nothing, first))

    def write(self, number: Any, array: int, index: int) -> None:
        """Write number `index` of the rows."""
        self.builder.store(number, self.place_of_rows(array, index), align=8)

    def add(self, number: _Number, array: int, index: int) -> None:
        """Add to number `index` of lanes, of which an array has LANES of each."""
        place = self.builder.bitcast(self.place(array, index * LANES), _REALS.as_pointer())
        old = _Number(self.builder, self.builder.load(place, align=8))
        self.builder.store((old + number).value, place, align=8)

    def parts(self, number: _Number) -> tuple[Any, _Number]:
        """Return the exponent, an integer too large by 1023, and the mantissa, from 1 to 2, of a number above zero."""
        build = self.builder
        bits = build.bitcast(number.value, _INTEGERS)
        fraction = build.and_(bits, _INTEGERS([(1 << 52) - 1] * LANES))
        mantissa = build.bitcast(build.or_(fraction, _INTEGERS([1023 << 52] * LANES)), _REALS)
        return build.lshr(bits, _INTEGERS([52] * LANES)), _Number(build, mantissa)


@intrinsic
def density_parts(
    typing: Any, size: Any, entries: Any, r: Any, values: Any, mean: Any, covariance: Any, scales: Any, parts: Any
) -> Any:  # fmt: skip
    """Write z' D^-1 z of LANES rows from r on, their log-determinants, and what tells whether they are numbers.

    size, entries : tuples of n_features numbers, and of as many as a row's errors have
        Their types say what is to be compiled.
    r : int
    values : (n,), float64
        A strip: STRIDE numbers for each feature, and for each error, of which WIDTH count.
    mean, covariance, scales : (n_features,), (n_features, n_features), (n_features,), float64
        Of the component; pivots come times scales.
    parts : (N_PARTS, STRIDE), float64
        Written: z' D^-1 z, mantissa and power, where the product of pivots is mantissa 2^power, and of pivots the
        least, and of pairs of them the greatest product.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row = _Factors(context, builder, signature, args, inverts=False)
        pivots = [pivot * row.of_all(3, j) for j, pivot in enumerate(row.pivots)]
        pairs = [a * b for a, b in zip(pivots[::2], [*pivots[1::2], row.one], strict=False)]
        squared, least, most, product = row.z[0] * row.z[0] * row.inverses[0], pivots[0], pairs[0], row.one
        power = _INTEGERS([-1023 * len(pairs)] * LANES)
        for z, inverse, pivot in zip(row.z[1:], row.inverses[1:], pivots[1:], strict=True):
            squared, least = squared + z * z * inverse, least.or_if("<", pivot)
        for pair in pairs:
            exponent, mantissa = row.parts(pair)
            product, most = product * mantissa, most.or_if(">", pair)
            power = builder.add(power, exponent)
        power = builder.sitofp(power, _REALS)
        for index, part in enumerate([squared.value, product.value, power, least.value, most.value]):
            row.write(part, 4, index)
        return context.get_dummy_value()

    return types.void(size, entries, types.intp, values, mean, covariance, scales, parts), generate


@intrinsic
def add_rows(
    typing: Any, size: Any, entries: Any, r: Any, values: Any, mean: Any, covariance: Any, weights: Any, sums: Any
) -> Any:  # fmt: skip
    """Add r, r u, and r (u u' - M), upper triangle, of LANES rows from r on, to those of their lanes.

    (Sums over the turns of a loop have the compiler do four turns at once, for which there are no registers.)

    weights, sums : (WIDTH,), (n * LANES,), float64
        Responsibilities, and what they are added to, 1 + n_features + n_features (n_features + 1) / 2 sums a lane.
    others
        As those of `density_parts`.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row = _Factors(context, builder, signature, args, inverts=True)
        features, resp, inverse = range(row.n), row.of_row(3, 0), row.inverse
        weighted = [resp * entry for entry in row.inverses]
        # u = W' D^-1 z and M = W' D^-1 W with W = L^-1.
        scaled_z = [z * entry for z, entry in zip(row.z, row.inverses, strict=True)]
        u = scaled_z.copy()
        for a in features:
            for i in features[a + 1 :]:
                u[a] = u[a] + inverse[i, a] * scaled_z[i]
        row.add(resp, 4, 0)
        index = row.n + 1
        for a in features:
            first = resp * u[a]
            row.add(first, 4, 1 + a)
            scaled = {i: inverse[i, a] * weighted[i] for i in features[a + 1 :]}
            for b in features[a:]:
                entry = first * u[b] - (weighted[a] if a == b else scaled[b])
                for i in features[b + 1 :]:
                    entry = entry - scaled[i] * inverse[i, b]
                row.add(entry, 4, index)
                index += 1
        return context.get_dummy_value()

    return types.void(size, entries, types.intp, values, mean, covariance, weights, sums), generate
