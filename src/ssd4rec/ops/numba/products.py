"""Matrix products of blocks that fit in the cache of a CPU, callable from compiled kernels.

A tile of the result stays in vector registers while the loop runs over the inner dimension. numba's own vectorization does not
find this form, and its `np.dot` needs SciPy; a tile is therefore written in LLVM's vector types, which LLVM compiles for the
processor. Matrices are flat float32 arrays with a start and distances between rows and columns, so that parts of a wider matrix,
transposed left factors and rows in reversed order need no copy.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from ssd4rec.ops.numba.simd import LANES, VECTOR
from ssd4rec.ops.numba.vectors import FAST

ROWS = 4 if LANES == 8 else 8  # of a tile: AVX2 has 16 registers, the others 32
FEW = ROWS // 2
SET, ADD = False, True  # the last argument of `product`
INDEX = ir.IntType(64)


def _address(builder: Any, data: Any, start: Any, *terms: tuple[Any, int]) -> Any:
    """Return the address of data[start + sum of step * count]."""
    for step, count in terms:
        start = builder.add(start, builder.mul(step, INDEX(count)))
    return builder.gep(data, [start])


def _vector_at(builder: Any, address: Any) -> Any:
    return builder.bitcast(address, VECTOR.as_pointer())


def _data(context: Any, builder: Any, signature: Any, args: Any, number: int) -> Any:
    return context.make_array(signature.args[number])(context, builder, args[number]).data


def _tile(rows: int, vectors: int) -> Callable[..., None]:
    """Return `product` for a result of fixed size: some rows, and some vectors of columns."""

    @intrinsic
    def tile(typing, out, out_start, out_row, a, a_start, a_row, a_column, b, b_start, b_row, inner, add):  # noqa: ARG001
        signature = types.void(out, out_start, out_row, a, a_start, a_row, a_column, b, b_start, b_row, inner, add)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            to, left, right = (_data(context, builder, signature, args, number) for number in (0, 3, 7))
            out_start, out_row, a_start, a_row, a_column, b_start, b_row, inner = (args[n] for n in (1, 2, 4, 5, 6, 8, 9, 10))
            places = [
                _vector_at(builder, _address(builder, to, out_start, (out_row, row), (INDEX(LANES), vector)))
                for row in range(rows)
                for vector in range(vectors)
            ]
            before = builder.block
            loading, loop, body, after = (builder.append_basic_block(name) for name in ("loading", "loop", "body", "after"))
            builder.cbranch(args[11], loading, loop)
            builder.position_at_end(loading)
            loaded = [builder.load(place, align=4) for place in places]
            builder.branch(loop)
            builder.position_at_end(loop)
            step, a_place, b_place = (builder.phi(INDEX) for _ in range(3))
            sums = [builder.phi(VECTOR) for _ in places]
            for block in (before, loading):
                for phi, start in ((step, INDEX(0)), (a_place, a_start), (b_place, b_start)):
                    phi.add_incoming(start, block)
            for phi, value in zip(sums, loaded, strict=True):
                phi.add_incoming(VECTOR([0.0] * LANES), before)
                phi.add_incoming(value, loading)
            builder.cbranch(builder.icmp_signed("<", step, inner), body, after)
            builder.position_at_end(body)
            factors = [
                builder.load(_vector_at(builder, _address(builder, right, b_place, (INDEX(LANES), vector))), align=4)
                for vector in range(vectors)
            ]
            undefined, first = VECTOR(ir.Undefined), ir.VectorType(ir.IntType(32), LANES)([0] * LANES)
            for row in range(rows):
                number = builder.load(_address(builder, left, a_place, (a_row, row)), align=4)
                factor = builder.insert_element(undefined, number, ir.IntType(32)(0))
                factor = builder.shuffle_vector(factor, undefined, first)
                for vector in range(vectors):
                    total = sums[row * vectors + vector]
                    term = builder.fmul(factor, factors[vector], flags=("contract",))
                    total.add_incoming(builder.fadd(term, total, flags=("contract",)), body)
            for phi, increment in ((step, INDEX(1)), (a_place, a_column), (b_place, b_row)):
                phi.add_incoming(builder.add(phi, increment), body)
            builder.branch(loop)
            builder.position_at_end(after)
            for place, total in zip(places, sums, strict=True):
                builder.store(total, place, align=4)
            return context.get_dummy_value()

        return signature, generate

    return tile


_many_wide, _many, _few_wide, _few, _one_wide, _one = (_tile(rows, vectors) for rows in (ROWS, FEW, 1) for vectors in (2, 1))


@njit(**FAST)
def product(out, out_start, out_row, a, a_start, a_row, a_column, b, b_start, b_row, rows, columns, inner, add):
    """Set out = a @ b, or add it to out.

    Element (i, j) of out is out[out_start + i out_row + j], and of b likewise; element (i, k) of a is
    a[a_start + i a_row + k a_column]. The columns of out and b are rounded up to a multiple of LANES: the arrays have room for
    them. `inner` counts the columns of a, which are the rows of b.
    """
    many, few = rows // ROWS * ROWS, rows // FEW * FEW
    for j in range(0, columns - LANES, 2 * LANES):
        to, of = out_start + j, b_start + j
        for i in range(0, many, ROWS):
            _many_wide(out, to + i * out_row, out_row, a, a_start + i * a_row, a_row, a_column, b, of, b_row, inner, add)
        for i in range(many, few, FEW):
            _few_wide(out, to + i * out_row, out_row, a, a_start + i * a_row, a_row, a_column, b, of, b_row, inner, add)
        for i in range(few, rows):
            _one_wide(out, to + i * out_row, out_row, a, a_start + i * a_row, a_row, a_column, b, of, b_row, inner, add)
    if (columns + LANES - 1) // LANES % 2:
        j = (columns - 1) // LANES * LANES
        to, of = out_start + j, b_start + j
        for i in range(0, many, ROWS):
            _many(out, to + i * out_row, out_row, a, a_start + i * a_row, a_row, a_column, b, of, b_row, inner, add)
        for i in range(many, few, FEW):
            _few(out, to + i * out_row, out_row, a, a_start + i * a_row, a_row, a_column, b, of, b_row, inner, add)
        for i in range(few, rows):
            _one(out, to + i * out_row, out_row, a, a_start + i * a_row, a_row, a_column, b, of, b_row, inner, add)


@intrinsic
def _transpose_block(typing, out, out_start, out_row, a, a_start, a_row, rows):  # noqa: ARG001
    """Transpose LANES x LANES numbers; rows after the given number are copies of the last one."""
    signature = types.void(out, out_start, out_row, a, a_start, a_row, rows)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, source = (_data(context, builder, signature, args, number) for number in (0, 3))
        out_start, out_row, a_start, a_row = (args[n] for n in (1, 2, 4, 5))
        last = builder.sub(args[6], INDEX(1))
        lines = []
        for number in range(LANES):
            row = builder.select(builder.icmp_signed("<", INDEX(number), last), INDEX(number), last)
            address = builder.gep(source, [builder.add(a_start, builder.mul(row, a_row))])
            lines.append(builder.load(_vector_at(builder, address), align=4))
        order = ir.VectorType(ir.IntType(32), LANES)
        distance = 1
        while distance < LANES:  # swap the off-diagonal blocks of this size
            lower = order([lane if not lane & distance else LANES + lane - distance for lane in range(LANES)])
            upper = order([lane + distance if not lane & distance else LANES + lane for lane in range(LANES)])
            for number in range(LANES):
                if not number & distance:
                    pair = lines[number], lines[number + distance]
                    lines[number] = builder.shuffle_vector(*pair, lower)
                    lines[number + distance] = builder.shuffle_vector(*pair, upper)
            distance *= 2
        for number, line in enumerate(lines):
            builder.store(line, _vector_at(builder, _address(builder, to, out_start, (out_row, number))), align=4)
        return context.get_dummy_value()

    return signature, generate


@njit(**FAST)
def transpose_to(out, out_row, a, a_start, a_row, rows, columns):
    """Set out = a^T, for matrices as in `product`; the columns of a are a multiple of LANES.

    The columns of out are rounded up to a multiple of LANES too, and those in excess get finite numbers.
    """
    for i in range(0, rows, LANES):
        for j in range(0, columns, LANES):
            _transpose_block(out, j * out_row + i, out_row, a, a_start + i * a_row + j, a_row, min(rows - i, LANES))
