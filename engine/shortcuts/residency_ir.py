"""Eight tables at once: what no compiler finds by itself, as the words of eight tables stay in registers throughout.

Written in LLVM's own terms, so any CPU runs it: one AVX-512 instruction a step, or several narrower ones.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from engine.random.splitmix import GOLDEN, MIX_1, MIX_2

TABLES = 8
WORDS, BITS = 8, 9
"""Of a table with 512 places."""
FIELDS = 64 // BITS
"""Places of one hash."""
LONG = ir.IntType(64)
LONGS = ir.VectorType(LONG, TABLES)
SHORTS = ir.VectorType(ir.IntType(16), TABLES)
BYTES = ir.IntType(8).as_pointer()
ALL = 0xFFFFFFFFFFFFFFFF


def each(value: int) -> ir.Constant:
    """The same number for all eight."""
    return ir.Constant(LONGS, [value & ALL] * TABLES)


def spread(builder: Any, value: Any) -> Any:
    """One uint64 for all eight."""
    one = builder.insert_element(ir.Constant(LONGS, ir.Undefined), value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), TABLES), [0] * TABLES))


def counted(builder: Any, values: Any) -> Any:
    """Bits set in each of the eight."""
    kind = ir.FunctionType(LONGS, [LONGS])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.ctpop.v{TABLES}i64"), [values])


def rotated(builder: Any, values: Any, places: Any) -> Any:
    """Each turned left by so many bits, modulo 64."""
    kind = ir.FunctionType(LONGS, [LONGS] * 3)
    turn = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fshl.v{TABLES}i64")
    return builder.call(turn, [values, values, places])


def mixed(builder: Any, z: Any) -> Any:
    """engine.random.splitmix.mix."""
    for shift, factor in ((30, MIX_1), (27, MIX_2)):
        z = builder.mul(builder.xor(z, builder.lshr(z, each(shift))), each(int(factor)))
    return builder.xor(z, builder.lshr(z, each(31)))


class Numbers:
    """Eight neighbours of a uint16 or 64-bit array, as eight 64-bit numbers."""

    def __init__(self, context: Any, builder: Any, kind: Any, array: Any, at: Any) -> None:
        data = make_array(kind)(context, builder, array).data
        self._builder, self._narrow = builder, kind.dtype.bitwidth == 16
        kept = SHORTS if self._narrow else LONGS
        self._pointer = builder.bitcast(builder.gep(data, [at]), kept.as_pointer())
        self._align = kind.dtype.bitwidth // 8

    def load(self) -> Any:
        values = self._builder.load(self._pointer, align=self._align)
        return self._builder.zext(values, LONGS) if self._narrow else values

    def store(self, values: Any) -> None:
        kept = self._builder.trunc(values, SHORTS) if self._narrow else values
        self._builder.store(kept, self._pointer, align=self._align)


@intrinsic
def place_eight(
    _: Any, present: Any, at: Any, ks: Any, lo: Any, hi: Any, wanted: Any, count: Any, stop: Any, pages: Any,
    stream: Any, first: Any, hashes: Any,
) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
    """Place pages in tables `at` to at + 7 of a block whose first is `first`, from so many hashes of stream each.

    present: uint64[8, tables], what was there is overwritten; ks, lo, hi, wanted: uint16[tables], as place_block has
    them. What comes of it: count: uint16[tables], places taken, seen or not; stop: uint16[tables], fields looked at up
    to the last that was; pages: int64[tables], how many are set.
    """
    kinds = (present, types.int64, ks, lo, hi, wanted, count, stop, pages, types.uint64, types.int64, types.int64)
    return types.void(*kinds), code_of_place_eight


def code_of_place_eight(context: Any, builder: Any, signature: Any, given: Any) -> Any:
    """engine.shortcuts.residency_placing.place_by_rows says the same table by table."""
    present, at, *arrays, stream, first, hashes = given
    kinds = signature.args[2 : 2 + len(arrays)]
    ks, lo, hi, wanted, count, stop, pages = (
        Numbers(context, builder, kind, array, at) for kind, array in zip(kinds, arrays, strict=True)
    )
    rows, kind = make_array(signature.args[0])(context, builder, present), signature.args[0]
    step, data = cgutils.unpack_tuple(builder, rows.strides, kind.ndim)[0], builder.bitcast(rows.data, BYTES)
    have, low, high, most = ks.load(), lo.load(), hi.load(), wanted.load()
    before = builder.add(low, each(1))
    room = builder.sub(high, before)
    words = [cgutils.alloca_once_value(builder, each(0)) for _ in range(WORDS)]
    # Twice what is still wanted: a step of two is one instruction under a mask, of a step of one LLVM makes two.
    twice = cgutils.alloca_once_value(builder, builder.shl(most, each(1)))
    looked = cgutils.alloca_once_value(builder, each(0))

    def put(places: Any, when: Any) -> None:
        """Set one place of each table, in that of its words where it lies."""
        bit = rotated(builder, each(1), places)
        bit, word = builder.select(when, bit, each(0)), builder.lshr(places, each(6))
        for number, kept in enumerate(words):
            own = builder.select(builder.icmp_unsigned("==", word, each(number)), bit, each(0))
            builder.store(builder.or_(builder.load(kept), own), kept)

    # engine.random.splitmix.draw(stream, table x 4096 + number): what is added for the next table and the next number.
    golden = int(GOLDEN)
    table = builder.add(first, at)
    start = builder.add(stream, builder.mul(builder.add(builder.shl(table, LONG(12)), LONG(1)), LONG(golden)))
    lanes = ir.Constant(LONGS, [(lane << 12) * golden & ALL for lane in range(TABLES)])
    start = builder.add(spread(builder, start), lanes)
    with cgutils.for_range(builder, hashes) as loop:
        shift = spread(builder, builder.mul(loop.index, LONG(golden)))
        bits = mixed(builder, builder.add(start, shift))
        number = spread(builder, builder.mul(loop.index, LONG(FIELDS)))
        for field in range(FIELDS):
            places = builder.and_(builder.lshr(bits, each(BITS * field)), each((1 << BITS) - 1))
            inside = builder.icmp_unsigned("<", builder.sub(places, before), room)
            now = builder.load(twice)
            take = builder.and_(inside, builder.icmp_unsigned("!=", now, each(0)))
            builder.store(builder.select(take, builder.sub(now, each(2)), now), twice)
            upto = builder.add(number, each(field + 1))
            builder.store(builder.select(take, upto, builder.load(looked)), looked)
            put(places, take)
    some = builder.icmp_unsigned("!=", have, each(0))
    put(low, some)
    put(high, some)

    total = each(0)
    for row, kept in enumerate(words):
        values = builder.load(kept)
        total = builder.add(total, counted(builder, values))
        offset = builder.add(builder.mul(step, LONG(row)), builder.shl(at, LONG(3)))
        builder.store(values, builder.bitcast(builder.gep(data, [offset]), LONGS.as_pointer()), align=8)
    taken = builder.sub(most, builder.lshr(builder.load(twice), each(1)))
    for array, values in ((count, taken), (stop, builder.load(looked)), (pages, total)):
        array.store(values)
    return context.get_dummy_value()
