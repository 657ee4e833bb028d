"""How the workers of a launch share its tasks: first its own, then what others have not begun.

Processors of one machine are seldom equally fast: other programs take some of their time, two of
them may be one core, laptops mix fast and slow ones. With equal shares all wait for the slowest.
Here every worker does the tasks of its share in their order, which leaves the next one's data where
it is expected, and then takes those of others, from their ends. What a task computes does not
depend on who does it, so the bits stay the same.

Measured on two virtual processors of a Xeon whose speeds, taken side by side in pieces of 4 ms,
differed by 1.15 to 1.3 (medians of three times half a minute): of the time of Winograd's launches
when the CIFAR-10 network predicts 64 pictures, one worker waited 15 to 17 % with equal shares, and
8 to 9 % so; 1.5 to 3 % where a share has 16 tasks or more, still 18 to 20 % where it has two.
Training of CIFAR-10, ResNet-20 and a VGG-like network, in turns: 1.01, 1.02 and 1.04 times as fast,
prediction of CIFAR-10 1.03 times. Loops that wait for memory gained nothing from smaller pieces:
both processors wait for the same one.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minicnn.ops.fast.gemm import share
from minicnn.ops.fast.jit import kernel


@intrinsic
def _exchange(typing, flags, index):
    """Set flags[index] to 1 and return what it was: one step, which no other thread can divide."""

    def generate(context, builder, signature, arguments):
        array = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0])
        place = builder.gep(array.data, [arguments[1]])
        return builder.atomic_rmw("xchg", place, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(flags, types.intp), generate


@kernel
def open_tasks(taken):
    """Before the workers begin; `taken` has an int64 for every task."""
    for task in range(taken.size):
        taken[task] = 0


@kernel
def task_of(turn, worker, workers, taken):
    """The task that `worker` does in its turn 0 ... taken.size - 1, or -1: another one has it."""
    first, last = share(worker, workers, taken.size)
    task = first + turn
    if task >= last:
        turn -= last - first
        for step in range(1, workers):
            first, last = share((worker + step) % workers, workers, taken.size)
            if turn < last - first:
                task = last - 1 - turn
                break
            turn -= last - first
    return task if _exchange(taken, task) == 0 else -1


FEW = 2  # workers
# Bytes: Winograd of 128 to 128 channels (3.5 MB) takes 0.96 to 0.98 of the time with one for both,
# of 64 to 64 (0.9 MB) 1.04; 512 x 512 by 512 x 512 (1.6 MB) 1.09, 256 x 2048 by 2048 x 512 (3.1 MB)
# 0.94 (two cores of a Xeon).
SMALL = 2 << 20


def copies(workers, size):
    """In how many copies `workers` make what all of them read, `size` bytes: one, in which each has
    a part, or, if both are few, one each. What another core has just written comes slowly out of
    its cache: on a Xeon 10 to 14 GB a second, what a core wrote itself 20 to 38.
    """
    return workers if workers <= FEW and size <= SMALL else 1
