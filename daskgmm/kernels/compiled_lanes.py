"""Eight numbers as one value of compiled loops: what is computed for eight components at once stays in registers.

Compilers do not make vector code of loops as short and as nested as those over the gaps of a row; here it is written.
An array of lanes is flat, and where numbers of it are is given as an index.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from daskgmm.kernels.gap_lanes import LANES

_REALS = ir.VectorType(ir.DoubleType(), LANES)


class _Lanes(types.Type):  # type: ignore[misc]
    """LANES float64; without registers of 512 bits the compiler takes several."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


@register_model(_Lanes)
class _Model(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _REALS)


_LANES = _Lanes()


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [index], inbounds=True)


def _spread(builder: Any, number: Any) -> Any:
    first = builder.insert_element(_REALS(ir.Undefined), number, ir.IntType(32)(0))
    return builder.shuffle_vector(first, _REALS(ir.Undefined), ir.VectorType(ir.IntType(32), LANES)([0] * LANES))


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """Return the numbers that begin at an index."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _place(context, builder, signature.args[0], *args)
        return builder.load(builder.bitcast(place, _REALS.as_pointer()), align=8)

    return _LANES(array, types.intp), generate


@intrinsic
def load_one(typing: Any, array: Any, index: Any) -> Any:
    """Return the number at an index in all lanes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _spread(builder, builder.load(_place(context, builder, signature.args[0], *args)))

    return _LANES(array, types.intp), generate


@intrinsic
def spread(typing: Any, number: Any) -> Any:
    """Return a number in all lanes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _spread(builder, args[0])

    return _LANES(types.float64), generate


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write numbers to where an index is."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _place(context, builder, signature.args[0], *args[:2])
        builder.store(args[2], builder.bitcast(place, _REALS.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, _LANES), generate


def _of(compute: Callable[..., Any], n: int) -> Any:
    """Return an intrinsic that computes a value from n others."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return compute(builder, *args)

    signature = _LANES(*[_LANES] * n)
    if n == 2:
        return intrinsic(lambda typing, a, b: (signature, generate))
    return intrinsic(lambda typing, a, b, c: (signature, generate))


def _product(builder: Any, a: Any, b: Any) -> Any:
    return builder.fmul(a, b, flags=("contract",))


#: a b, a / b, c + a b, and c - a b: a product and a sum may become one instruction.
times, over = _of(_product, 2), _of(lambda builder, a, b: builder.fdiv(a, b), 2)
more = _of(lambda builder, c, a, b: builder.fadd(c, _product(builder, a, b), flags=("contract",)), 3)
less = _of(lambda builder, c, a, b: builder.fsub(c, _product(builder, a, b), flags=("contract",)), 3)
