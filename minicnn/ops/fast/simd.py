"""Vectors of the host's width inside kernels: intrinsics written as a few lines of LLVM each.

A function decorated with `@vector_intrinsic` receives a `Vectors` object, which writes LLVM
instructions, and its arguments as LLVM values: an array becomes the address of its first element,
an integer stays one, a tuple of integers is its length, a number of Python. Kernels then call it
like any function. All floats of a call have one dtype, which decides the lanes (float32: 16 with
AVX-512, 8 with AVX2, 4 with SSE or NEON; float64: half of it), so one text serves every processor
and both types.

Nothing here checks bounds: addresses are array + element offset, and the caller is responsible.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

INTEGER = ir.IntType(64)
_LANE_NUMBER = ir.IntType(32)


def _host():
    """(bytes in a vector register, number of such registers) of the target processor."""
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    features = set(features.split(","))
    if "+avx512f" in features:
        return 64, 32
    if "+avx" in features:
        return 32, 16
    if triple.startswith(("aarch64", "arm64")):
        return 16, 32
    return 16, 16


VECTOR_BYTES, REGISTERS = _host()
LINE_BYTES = 64  # of the caches
# Winograd's outputs of 8 MB, 32 channels: 3.4 ms by `store`, 2.4 by `stream` (two cores of a Zen 4
# with 1 MB of second-level cache each); on a Xeon no difference was seen. Outputs of 4 MB are still
# near when they are read: by `store` the CIFAR-10 network predicts 64 pictures 1.03 times as fast.
STREAM_BYTES = 6 << 20
# Of other operations whose outputs of 6 MB (direct convolution), 8 (gradients of pooling) and 13
# (depthwise convolution) were quicker in the third cache.
LATE_STREAM_BYTES = 16 << 20


def lanes(dtype):
    """Elements of `dtype` in one vector."""
    return VECTOR_BYTES // dtype.itemsize


class Vectors:
    """Writes instructions on vectors of one float type into the function that is being built."""

    def __init__(self, builder, scalar, lanes=None):
        self.builder = builder
        self.scalar = scalar
        self._alignment = 8 if isinstance(scalar, ir.DoubleType) else 4  # bytes of a lane
        self.lanes = lanes or VECTOR_BYTES // self._alignment
        self.type = ir.VectorType(scalar, self.lanes)
        self._suffix = f"v{self.lanes}f{8 * self._alignment}"

    def of_lanes(self, lanes):
        """The same with other vectors, such as half ones of AVX-512."""
        return Vectors(self.builder, self.scalar, lanes)

    def integer(self, value):
        return ir.Constant(INTEGER, int(value))

    def constant(self, value):
        return ir.Constant(self.type, [float(value)] * self.lanes)

    def offset(self, start, *terms):
        """start + the sum of stride * count over `terms`; counts are Python integers."""
        for stride, count in terms:
            if count == 1:
                start = self.builder.add(start, stride)
            elif count:
                start = self.builder.add(start, self.builder.mul(stride, self.integer(count)))
        return start

    def address(self, array, index):
        """Address of element `index`."""
        return self.builder.gep(array, [index])

    def _vector_address(self, array, index):
        return self.builder.bitcast(self.address(array, index), self.type.as_pointer())

    def load(self, array, index):
        return self.builder.load(self._vector_address(array, index), align=self._alignment)

    def store(self, value, array, index):
        self.builder.store(value, self._vector_address(array, index), align=self._alignment)

    def stream(self, value, array, index):
        """`store` past the caches, for what will not be read before it has left them: the line is
        not read first. The address must be a multiple of VECTOR_BYTES; `end_of_stream` must follow.
        """
        once = self.builder.module.add_metadata([ir.Constant(_LANE_NUMBER, 1)])
        pointer = self._vector_address(array, index)
        self.builder.store(value, pointer, align=VECTOR_BYTES).set_metadata("nontemporal", once)

    def prefetch(self, array, index, to_write=False):
        """Ask for a vector, which need not exist: into the second cache, or to write."""
        byte_pointer = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte_pointer, *[_LANE_NUMBER] * 3])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0")
        how = [ir.Constant(_LANE_NUMBER, value) for value in (int(to_write), 2, 1)]
        address = self.builder.bitcast(self.address(array, index), byte_pointer)
        self.builder.call(function, [address, *how])

    def prefetch_run(self, array, index, count, to_write=False):
        """The same for `count` vectors side by side."""
        with self.count_up(count) as (i, _):
            self.prefetch(array, self.offset(index, (i, self.lanes)), to_write)

    def load_first(self, array, index, count):
        """The first `count` lanes from memory, zero in the others, which are not touched."""
        mask = self.first(count)
        pointer = self._vector_address(array, index)
        function = self._function(
            f"llvm.masked.load.{self._suffix}.p0",
            [pointer.type, _LANE_NUMBER, mask.type, self.type],
        )
        alignment = ir.Constant(_LANE_NUMBER, self._alignment)
        return self.builder.call(function, [pointer, alignment, mask, self.constant(0)])

    def at_address(self, address):
        """A number as the address of scalars, for tables of addresses."""
        return self.builder.inttoptr(address, self.scalar.as_pointer())

    def load_integer(self, array, index):
        return self.builder.load(self.address(array, index))

    def store_first(self, value, array, index, count):
        """The first `count` lanes to memory; the rest of memory is not touched."""
        mask = self.first(count)
        pointer = self._vector_address(array, index)
        alignment = ir.Constant(_LANE_NUMBER, self._alignment)
        function = cgutils.get_or_insert_function(
            self.builder.module,
            ir.FunctionType(ir.VoidType(), [self.type, pointer.type, _LANE_NUMBER, mask.type]),
            f"llvm.masked.store.{self._suffix}.p0",
        )
        self.builder.call(function, [value, pointer, alignment, mask])

    def number(self, value):
        """An integer in all lanes, as 32 bits."""
        wide = ir.VectorType(_LANE_NUMBER, self.lanes)
        return self.broadcast(self.builder.trunc(value, _LANE_NUMBER), wide)

    def load_numbers(self, array, index, count=None):
        """Unsigned integers of any size as 32 bits; the first `count`, and 0, if given."""
        narrow, pointer, mask, alignment = self._numbers(array, index, count)
        if count is None:
            value = self.builder.load(pointer, align=alignment.constant)
        else:
            function = cgutils.get_or_insert_function(
                self.builder.module,
                ir.FunctionType(narrow, [pointer.type, _LANE_NUMBER, mask.type, narrow]),
                f"llvm.masked.load.v{self.lanes}i{narrow.element.width}.p0",
            )
            zeros = ir.Constant(narrow, None)
            value = self.builder.call(function, [pointer, alignment, mask, zeros])
        return self.builder.zext(value, ir.VectorType(_LANE_NUMBER, self.lanes))

    def store_numbers(self, value, array, index, count=None):
        """32 bits a lane to integers of that size or less; the first `count`, if given."""
        narrow, pointer, mask, alignment = self._numbers(array, index, count)
        value = self.builder.trunc(value, narrow)
        if count is None:
            self.builder.store(value, pointer, align=alignment.constant)
            return
        function = cgutils.get_or_insert_function(
            self.builder.module,
            ir.FunctionType(ir.VoidType(), [narrow, pointer.type, _LANE_NUMBER, mask.type]),
            f"llvm.masked.store.v{self.lanes}i{narrow.element.width}.p0",
        )
        self.builder.call(function, [value, pointer, alignment, mask])

    def _numbers(self, array, index, count):
        """Type and address of a vector of integers, the mask of the first `count`, alignment."""
        scalar = array.type.pointee
        narrow = ir.VectorType(scalar, self.lanes)
        pointer = self.builder.bitcast(self.address(array, index), narrow.as_pointer())
        mask = None if count is None else self.first(count)
        return narrow, pointer, mask, ir.Constant(_LANE_NUMBER, scalar.width // 8)

    def first(self, count):
        """Mask of the first `count` lanes."""
        count = self.builder.trunc(count, _LANE_NUMBER)
        numbers = ir.Constant(ir.VectorType(_LANE_NUMBER, self.lanes), list(range(self.lanes)))
        return self.builder.icmp_signed("<", numbers, self.broadcast(count, numbers.type))

    def splat(self, scalar):
        return self.broadcast(scalar, self.type)

    def load_splat(self, array, index):
        """One element in all lanes."""
        return self.splat(self.builder.load(self.address(array, index)))

    def broadcast(self, scalar, vector_type):
        """The same in a vector of any type."""
        undefined = ir.Constant(vector_type, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(_LANE_NUMBER, 0))
        zeros = ir.Constant(ir.VectorType(_LANE_NUMBER, vector_type.count), None)
        return self.builder.shuffle_vector(first, undefined, zeros)

    def sum(self, x):
        """Of all lanes: halves are added until one is left."""
        undefined, width = ir.Constant(self.type, ir.Undefined), self.lanes
        while width > 1:
            width //= 2
            order = [(lane + width) % self.lanes for lane in range(self.lanes)]
            mask = ir.Constant(ir.VectorType(_LANE_NUMBER, self.lanes), order)
            x = self.add(x, self.builder.shuffle_vector(x, undefined, mask))
        return self.builder.extract_element(x, ir.Constant(_LANE_NUMBER, 0))

    def add(self, x, y):
        return self.builder.fadd(x, y, flags=("contract",))

    def subtract(self, x, y):
        return self.builder.fsub(x, y, flags=("contract",))

    def multiply(self, x, y):
        return self.builder.fmul(x, y, flags=("contract",))

    def multiply_add(self, x, y, z):
        """x * y + z, in one instruction where the processor has it."""
        function = self._function(f"llvm.fmuladd.{self._suffix}", [self.type] * 3)
        return self.builder.call(function, [x, y, z])

    def where_less(self, x, limit, then, otherwise):
        """Lane by lane; NaN is not less."""
        return self.builder.select(self.builder.fcmp_ordered("<", x, limit), then, otherwise)

    def where_negative(self, x, then, otherwise):
        """Lane by lane; NaN is not negative."""
        return self.where_less(x, self.constant(0), then, otherwise)

    def combine(self, coefficients, vectors):
        """Sum of coefficient * vector; zeros cost nothing and ones no product."""
        total = None
        for coefficient, vector in zip(coefficients, vectors, strict=True):
            if coefficient == 0:
                continue
            if total is None:
                total = vector
                if coefficient != 1:
                    total = self.multiply(vector, self.constant(coefficient))
            elif coefficient == 1:
                total = self.add(total, vector)
            elif coefficient == -1:
                total = self.subtract(total, vector)
            else:
                total = self.multiply_add(vector, self.constant(coefficient), total)
        return total

    def count_up(self, stop, step=1):
        """`with v.count_up(n, step) as (i, _):` a loop over i = 0, step, ... < n, perhaps empty."""
        return cgutils.for_range_slice(
            self.builder, self.integer(0), stop, self.integer(step), intp=INTEGER
        )

    def whole_or_first(self, count, write):
        """write(load, store) for a whole vector, and again for its first `count` lanes if that
        is less; load(array, index) and store(value, array, index) touch nothing beyond them."""
        whole = self.builder.icmp_signed(">=", count, self.integer(self.lanes))
        with self.builder.if_else(whole) as (then, otherwise):
            with then:
                write(self.load, self.store)
            with otherwise:
                write(
                    lambda array, index: self.load_first(array, index, count),
                    lambda value, array, index: self.store_first(value, array, index, count),
                )

    def read_first(self, count, read):
        """read(load) with a load(array, index) that touches only the first `count` lanes, perhaps
        all, and gives zero in the others: one text where the processor masks loads at no cost,
        two where it cannot mask them."""
        if VECTOR_BYTES >= 32:
            read(lambda array, index: self.load_first(array, index, count))
        else:
            self.whole_or_first(count, lambda load, store: read(load))

    def _function(self, name, arguments):
        signature = ir.FunctionType(self.type, arguments)
        return cgutils.get_or_insert_function(self.builder.module, signature, name)


class Variable:
    """A value in a register that a loop changes."""

    def __init__(self, v, value):
        self.v, self.place = v, cgutils.alloca_once(v.builder, value.type)
        self.value = value

    @property
    def value(self):
        return self.v.builder.load(self.place)

    @value.setter
    def value(self, value):
        self.v.builder.store(value, self.place)


def vector_intrinsic(write):
    """Make a kernel function of `write(vectors, *values)`, which returns nothing."""
    names = write.__code__.co_varnames[1 : write.__code__.co_argcount]

    def typed(*argument_types):
        arrays = [t.dtype for t in argument_types if isinstance(t, types.Array)]
        floats = {t for t in arrays if isinstance(t, types.Float)}
        floats |= {t for t in argument_types if isinstance(t, types.Float)}
        if len(floats) != 1:
            raise TypeError(f"{write.__name__}: arrays of one float type, not of {floats}")
        (dtype,) = floats
        kept = types.Array | types.Float | types.UniTuple
        signature = types.void(*(t if isinstance(t, kept) else types.intp for t in argument_types))

        def generate(context, builder, signature, arguments):
            vectors = Vectors(builder, context.get_value_type(dtype))
            values = []
            for kind, value in zip(signature.args, arguments, strict=True):
                if isinstance(kind, types.Array):
                    value = cgutils.create_struct_proxy(kind)(context, builder, value).data
                values.append(kind.count if isinstance(kind, types.UniTuple) else value)
            write(vectors, *values)
            return context.get_dummy_value()

        return signature, generate

    # Numba reads the parameter names of an intrinsic, so it must be a function with just these.
    parameters = ", ".join(names)
    space = {"typed": typed}
    exec(f"def {write.__name__}(typing, {parameters}): return typed({parameters})", space)
    return intrinsic(space[write.__name__])


@vector_intrinsic
def end_of_stream(v, array):
    """Other threads see what this one wrote by `stream` before."""
    v.builder.fence("seq_cst")


def streams(array, step, least=None, vectors=1):
    """Whether rows of `array` that lie `step` elements apart may be written by `stream`, and
    should: it has `least` bytes, else STREAM_BYTES, and leaves the caches before it is read, and as
    many `vectors` are written one after the other as fill a line of the caches. Half a line costs
    more than a whole one: without that condition the CIFAR-10 network trained in 1.8 times the time
    with AVX2 (batch 256), predicted in 1.5 times, a VGG-like network trained in 1.3 times.
    """
    least = STREAM_BYTES if least is None else least
    if array.nbytes < least or vectors * VECTOR_BYTES < LINE_BYTES:
        return False
    if step * array.itemsize % LINE_BYTES:
        return False
    return array.ctypes.data % LINE_BYTES == 0  # last: asking takes a microsecond


@vector_intrinsic
def copy_run(v, target, target0, source, source0, count):
    """target[target0 : +count] = source[source0 : +count].

    Reads exactly the source; writes whole vectors, so up to a vector of garbage (zeros) follows.
    """
    builder = v.builder
    whole = builder.and_(count, v.integer(-v.lanes))
    with v.count_up(whole, v.lanes) as (i, _):
        v.store(v.load(source, builder.add(source0, i)), target, builder.add(target0, i))
    rest = builder.sub(count, whole)
    with builder.if_then(builder.icmp_signed(">", rest, v.integer(0))):
        tail = v.load_first(source, builder.add(source0, whole), rest)
        v.store(tail, target, builder.add(target0, whole))


@vector_intrinsic
def zero_run(v, target, target0, count):
    """target[target0 : +count] = 0, in whole vectors as `copy_run`."""
    with v.count_up(count, v.lanes) as (i, _):
        v.store(v.constant(0), target, v.builder.add(target0, i))
