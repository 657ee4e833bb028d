"""The walks of a model's steps: layer by layer, until they repeat; then as they were recorded.

A walk is recorded when it is like the one before it: inputs of the same shapes, the same layers
with the same settings, weights in the same memory. It is made again from the record until one is
not. So the last, smaller batch of an epoch, a validation or a changed `trainable` go through the
layers, and there is one record at a time, which holds no more memory than one step takes.

Models are recorded all of whose layers say that they repeat (`can_be_recorded` in layers/base.py):
what those do to numbers is calls that recording.py notes. A forward or backward of the user's is
always called.

Measured: docs/kernels.md, "Steps that repeat".
"""

import contextlib
import threading

from minicnn import config
from minicnn.data.batches import flat
from minicnn.layers.base import Layer, can_be_recorded
from minicnn.ops import arena
from minicnn.ops.recording import Recorder
from minicnn.parameter import Parameter


class Walks:
    """Those of one model. One thread at a time gets recorded ones, others go layer by layer."""

    def __init__(self):
        self._lock = threading.Lock()
        self.forget()
        arena.forget_at_trim(self)

    def forget(self):
        """Let the record's memory go."""
        self._kind, self._recording, self._can_repeat = None, None, True

    @contextlib.contextmanager
    def walk(self, model, x, context):
        """`outputs` as model.forward gives them, and back(dy), which is model.backward."""
        if not self._lock.acquire(blocking=False):
            yield _LayerByLayer(model, x, context)
            return
        try:
            kind, recording = _kind(model, x, context), self._recording
            if kind is None or kind != self._kind:
                self.forget()
                self._kind = kind
            elif recording is not None and recording.is_current():
                yield _Recorded(recording, x, context)
                return
            elif recording is not None:
                self._recording = None  # made anew by the next walk
            elif self._can_repeat and can_be_recorded(model):
                walk = _BeingRecorded(model, x, context)
                yield walk
                self._recording, self._can_repeat = walk.recording()
                return
            else:
                self._can_repeat = False
            recording = None  # its memory is for the layers
            yield _LayerByLayer(model, x, context)
        finally:
            self._lock.release()


def _kind(model, x, context):
    """What a walk depends on besides the numbers in its arrays; None where none are recorded."""
    wanted = not (model.run_eagerly or context.watch or context.frozen_state)
    if not wanted or config.ops != "fast":
        return None
    from minicnn.ops.fast import threads  # here: `import minicnn` loads no Numba

    if threads.serial_only or threads.makes_data():
        return None
    inputs = [(array.shape, array.dtype, array.flags.carray) for array in flat(x)]
    mode = context.training, context.keep, context.logits, context.first_sample
    changes = Layer.changes, Parameter.changes, config.changes()
    return model.graph, inputs, mode, changes, threading.get_ident()


class _LayerByLayer:
    def __init__(self, model, x, context):
        self._model = model
        self.outputs, self._saved = model.forward(x, context)

    def back(self, dy):
        self._model.backward(dy, self._saved, False)


class _BeingRecorded(_LayerByLayer):
    def __init__(self, model, x, context):
        self._recorder = Recorder(flat(x))
        with self._recorder:
            super().__init__(model, x, context)

    def back(self, dy):
        self._recorder.turn(flat(dy))
        with self._recorder:
            super().back(dy)

    def recording(self):
        """The Recording or None, and whether to try again if it is None."""
        recording = self._recorder.finish(flat(self.outputs), isinstance(self.outputs, list))
        return recording, self._recorder.can_repeat


class _Recorded:
    def __init__(self, recording, x, context):
        self._recording = recording
        self.outputs, self._named = recording.walk(flat(x), context.key_of)

    def back(self, dy):
        self._recording.walk_back(flat(dy), self._named)
