"""A folder of real pictures of all kinds."""

import numpy as np
import pytest
from PIL import Image

from minicnn.datasets import cifar10

FORMATS = ("jpg", "png", "bmp", "gif", "webp")
MODES = ("RGB", "L", "P", "RGBA", "CMYK", "1", "LA")
WRITES = {"jpg": ("RGB", "L", "CMYK"), "webp": ("RGB", "RGBA"), "bmp": ("RGB", "L", "P", "1")}
WRITES["gif"] = ("P", "L")


def make_picture_folder(folder, per_class=10, names=("cat", "dog", "ship")):
    """Pictures of CIFAR-10: five formats, mixed sizes, colour modes, EXIF orientations."""
    (x, y), _ = cifar10.load_sample()
    count = 0
    for name in names:
        (folder / name).mkdir(parents=True)
        rows = np.flatnonzero(y[:, 0] == cifar10.CLASS_NAMES.index(name))[:per_class]
        for row in rows:
            suffix = FORMATS[count % len(FORMATS)]
            modes = WRITES.get(suffix, ("RGB", "L", "P", "RGBA", "1", "LA"))
            size = (32 + count % 7 * 5, 32 + count % 4 * 9)
            picture = Image.fromarray(x[row]).resize(size).convert(modes[count % len(modes)])
            extra = {}
            if suffix in ("jpg", "png"):
                extra["exif"] = Image.Exif()
                extra["exif"][0x0112] = 1 + count % 8
            picture.save(folder / name / f"{count:03}.{suffix}", **extra)
            count += 1
    return folder


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory):
    return make_picture_folder(tmp_path_factory.mktemp("pictures") / "all")
