"""Small pictures, shuffled, shifted and mirrored anew in each epoch."""

import numpy as np

from minicnn import ops, randomness
from minicnn.data.batches import PyDataset, positive, sample_count


class AlternatingFlips(PyDataset):
    """Batches of pictures x (n, h, w, c) and labels y for `fit`: whole batches in a new order.

    Each picture is mirrored in every other epoch, beginning with a random half of them: over two
    epochs the network sees every picture both ways, which random flips do only half the time
    (alternating flip, Jordan 2024, arXiv:2404.00498). Then it is moved by up to `shift` pixels in
    each direction; its border is reflected. The pixels keep their range; x stays as it is (uint8,
    say) until a batch becomes float32. What does not fill a batch is left out of the epoch.
    """

    def __init__(self, x, y, batch_size=32, shift=2, flip=True, seed=None, **base):
        super().__init__(**base)
        self.x, self.y = np.asarray(x), np.asarray(y)
        if self.x.ndim != 4:
            raise ValueError(f"x is pictures (n, h, w, c), not an array of shape {self.x.shape}")
        self.batch_size = positive("batch_size", batch_size)
        if sample_count(self.x, self.y) < self.batch_size:
            raise ValueError(
                f"batch_size is {batch_size} for {len(self.x)} pictures: there is no whole batch"
            )
        if isinstance(shift, bool) or not isinstance(shift, int) or shift < 0:
            raise ValueError(f"shift is an integer >= 0, not {shift!r}")
        if shift >= min(self.x.shape[1:3]):
            raise ValueError(f"shift is {shift} pixels for pictures of shape {self.x.shape[1:]}")
        self.shift, self.flip = shift, bool(flip)
        self._generator = randomness.generator(seed)
        self._mirrored = self._generator.random(len(self.x)) < 0.5
        self._draw()

    def __len__(self):
        return len(self.x) // self.batch_size

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(f"there are {len(self)} batches, not number {index}")
        chosen = self._order[index * self.batch_size :][: self.batch_size]
        _, height, width, _ = self.x.shape
        rows = _reflected(np.arange(height) + self._moves[chosen, :1], height)
        columns = np.where(
            self._mirrored[chosen, None] & self.flip, np.arange(width)[::-1], np.arange(width)
        )
        columns = _reflected(columns + self._moves[chosen, 1:], width)
        pictures = ops.scale_shift(self.x[chosen], 1.0, 0.0, np.float32)
        return ops.gather_pixels(pictures, rows, columns), self.y[chosen]

    def on_epoch_end(self):
        """Draw the next epoch."""
        self._mirrored = ~self._mirrored
        self._draw()

    def _draw(self):
        self._order = self._generator.permutation(len(self.x))
        self._moves = self._generator.integers(-self.shift, self.shift + 1, (len(self.x), 2))


def _reflected(index, size):
    """Places beyond the border, as in a mirror that stands on the outermost pixel."""
    index = np.abs(index)
    return np.where(index >= size, 2 * (size - 1) - index, index)
