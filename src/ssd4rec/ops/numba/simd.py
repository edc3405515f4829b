"""Vector registers as values in compiled kernels: LANES float32 numbers, with arithmetic that LLVM maps to single instructions.

A loop over the numbers of a row is vectorized by LLVM only after checks that no arrays overlap, and it falls back to single
numbers for short rows such as those of one head. These functions need neither.

An array of uint16 holds bfloat16 numbers, the upper halves of float32 numbers: `load` and `number_at` widen them, `store` and
`put` round to the nearest. A kernel that uses these runs on both types.
"""

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import njit, types
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from ssd4rec.ops.numba.vectors import ALLOCATING, FAST, ONE, ZERO

_FEATURES = get_host_cpu_features()
LANES = 16 if _FEATURES.get("avx512f") else 8 if _FEATURES.get("avx2") else 4  # numbers of a vector register
VECTOR, INTEGERS = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(ir.IntType(32), LANES)
SHORTS = ir.VectorType(ir.IntType(16), LANES)
AHEAD = 2  # positions that are moved to the cache before they are read
LINE = 16  # numbers in a line of the cache
FLAGS = ("contract", "reassoc", "nsz", "arcp")
# exp(r) = 1 + r + r^2 (C0 r^4 + … + C5) for |r| <= ln(2) / 2; Cephes, `expf`
COEFFICIENTS = 1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
SMALLEST, LARGEST = -87.0, 88.0


class Vector(types.Type):  # type: ignore[misc]  # numba has no types
    """The type of LANES numbers."""

    def __init__(self) -> None:
        super().__init__(name=f"{LANES} x float32")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, VECTOR)


vector = Vector()


def _filled(builder: Any, number: Any) -> Any:
    one = builder.insert_element(VECTOR(ir.Undefined), number, ir.IntType(32)(0))
    return builder.shuffle_vector(one, VECTOR(ir.Undefined), INTEGERS([0] * LANES))


def _add_operator(function: Any, method: str) -> None:
    """Define an operator for two vectors, and for a vector and a number."""
    pairs = [(vector, vector), (vector, types.float32), (types.float32, vector)]

    @infer_global(function)
    class _Template(ConcreteTemplate):  # type: ignore[misc]
        cases = [signature(vector, *pair) for pair in pairs]  # noqa: RUF012

    for pair in pairs:

        @lower_builtin(function, *pair)
        def _lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
            both = [
                value if kind is vector else _filled(builder, value) for kind, value in zip(signature.args, args, strict=True)
            ]
            return getattr(builder, method)(*both, flags=FLAGS)


for _function, _method in (
    (operator.add, "fadd"),
    (operator.iadd, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _add_operator(_function, _method)


def _place(context: Any, builder: Any, signature: Any, args: Any, kind: Any) -> Any:
    data = context.make_array(signature.args[0])(context, builder, args[0]).data
    return builder.bitcast(builder.gep(data, [args[1]]), kind.as_pointer())


def _read(context: Any, builder: Any, signature: Any, args: Any, kinds: tuple[Any, Any, Any]) -> Any:
    """Load numbers of one of the types, which are a number or a vector."""
    shorts, integers, floats = kinds
    if signature.args[0].dtype != types.uint16:
        return builder.load(_place(context, builder, signature, args, floats), align=4)
    upper = builder.load(_place(context, builder, signature, args, shorts), align=2)
    return builder.bitcast(builder.shl(builder.zext(upper, integers), _same(integers, 16)), floats)


def _write(context: Any, builder: Any, signature: Any, args: Any, kinds: tuple[Any, Any, Any]) -> Any:
    """Store numbers in one of the types, which are a number or a vector."""
    shorts, integers, floats = kinds
    numbers = args[2]
    if signature.args[0].dtype != types.uint16:
        builder.store(numbers, _place(context, builder, signature, args, floats), align=4)
        return context.get_dummy_value()
    bits, half = builder.bitcast(numbers, integers), _same(integers, 16)
    odd = builder.and_(builder.lshr(bits, half), _same(integers, 1))  # a tie goes to the even number
    rounded = builder.add(bits, builder.add(odd, _same(integers, 0x7FFF)))
    upper = builder.trunc(builder.lshr(rounded, half), shorts)
    builder.store(upper, _place(context, builder, signature, args, shorts), align=2)
    return context.get_dummy_value()


def _same(kind: Any, value: int) -> Any:
    return kind([value] * LANES) if isinstance(kind, ir.VectorType) else kind(value)


def _for_kinds(access: Any, kinds: tuple[Any, Any, Any]) -> Any:
    return lambda context, builder, signature, args: access(context, builder, signature, args, kinds)


_VECTORS = SHORTS, INTEGERS, VECTOR
_NUMBERS = ir.IntType(16), ir.IntType(32), ir.FloatType()


@intrinsic
def load(typing, array, i):  # noqa: ARG001
    """Return the numbers at i, i + 1, … of a flat array."""
    return vector(array, i), _for_kinds(_read, _VECTORS)


@intrinsic
def store(typing, array, i, values):  # noqa: ARG001
    """Set the numbers at i, i + 1, … of a flat array."""
    return types.void(array, i, values), _for_kinds(_write, _VECTORS)


@intrinsic
def number_at(typing, array, i):  # noqa: ARG001
    """Return the number at i of a flat array, in float32."""
    return types.float32(array, i), _for_kinds(_read, _NUMBERS)


@intrinsic
def put(typing, array, i, number):  # noqa: ARG001
    """Set the number at i of a flat array to a float32 number."""
    return types.void(array, i, number), _for_kinds(_write, _NUMBERS)


@intrinsic
def prefetch(typing, array, i):  # noqa: ARG001
    """Move the line of number i of a flat array to the cache; the array need not have this number."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        place = _place(context, builder, signature, args, pointer.pointee)
        builder.call(function, [place, number(1), number(3), number(1)])  # for writing, into all levels, data
        return context.get_dummy_value()

    return types.void(array, i), generate


@intrinsic
def filled(typing, number):  # noqa: ARG001
    """Return a vector of equal numbers."""
    return vector(number), lambda context, builder, signature, args: _filled(builder, args[0])  # noqa: ARG005


def _call(builder: Any, name: str, result: Any, *args: Any) -> Any:
    suffix = f"v{LANES}f32"
    function = builder.module.declare_intrinsic(
        f"llvm.{name}.{suffix}", (), ir.FunctionType(result, [each.type for each in args])
    )
    return builder.call(function, args, fastmath=FLAGS)


@intrinsic
def total(typing, values):  # noqa: ARG001
    """Return the sum of the numbers."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        return _call(builder, "vector.reduce.fadd", ir.FloatType(), ir.FloatType()(0.0), args[0])

    return types.float32(values), generate


@intrinsic
def clamped(typing, values, low, high):  # noqa: ARG001
    """Return the numbers within two limits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        low, high = (_filled(builder, each) for each in args[1:])
        return _call(builder, "minnum", VECTOR, _call(builder, "maxnum", VECTOR, args[0], low), high)

    return vector(values, low, high), generate


@intrinsic
def smaller(typing, array, i, bound):  # noqa: ARG001
    """Return 1.0 for each of the int16 numbers at i, i + 1, … that is smaller than a bound, else 0.0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        numbers = builder.load(_place(context, builder, signature, args, SHORTS), align=2)
        one = builder.insert_element(SHORTS(ir.Undefined), args[2], ir.IntType(32)(0))
        bounds = builder.shuffle_vector(one, SHORTS(ir.Undefined), INTEGERS([0] * LANES))
        return builder.uitofp(builder.icmp_signed("<", numbers, bounds), VECTOR)

    return vector(array, i, bound), generate


@intrinsic
def exp(typing, values):  # noqa: ARG001
    """Return e to the power of each number, to about one unit in the last place; below -87 and above 88, of the nearer end."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        def number(value: float) -> Any:
            return VECTOR([value] * LANES)

        def add(x: Any, y: Any) -> Any:
            return builder.fadd(x, y, flags=FLAGS[:1])

        def times(x: Any, y: Any) -> Any:
            return builder.fmul(x, y, flags=FLAGS[:1])

        clamped = _call(builder, "maxnum", VECTOR, args[0], number(SMALLEST))
        clamped = _call(builder, "minnum", VECTOR, clamped, number(LARGEST))
        n = _call(builder, "floor", VECTOR, add(times(clamped, number(1.4426950408889634)), number(0.5)))
        r = add(add(clamped, times(n, number(-LN2_HIGH))), times(n, number(-LN2_LOW)))
        poly = number(COEFFICIENTS[0])
        for coefficient in COEFFICIENTS[1:]:
            poly = add(times(poly, r), number(coefficient))
        poly = add(times(poly, times(r, r)), add(r, number(1.0)))
        exponent = builder.add(builder.fptosi(n, INTEGERS), INTEGERS([127] * LANES))
        return times(poly, builder.bitcast(builder.shl(exponent, INTEGERS([23] * LANES)), VECTOR))

    return vector(values), generate


@njit(**FAST)
def sigmoid(x):
    """Return 1 / (1 + exp(-x))."""
    return ONE / (ONE + exp(ZERO - x))


@njit(**FAST)
def silu_slope(x, s):
    """Return the derivative of x sigmoid(x); s is sigmoid(x)."""
    return s * (ONE + x * (ONE - s))


@njit(**FAST)
def add_at(out, i, values):
    """Add to the numbers at i, i + 1, … of a flat array."""
    store(out, i, load(out, i) + values)


@njit(**ALLOCATING)
def empty(count):
    """Return a new flat array that starts where a line of the cache does."""
    array = np.empty(count + LINE, np.float32)
    skipped = (-(array.ctypes.data // 4)) % LINE
    return array[skipped : skipped + count]
