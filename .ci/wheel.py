"""What a wheel must hold, and what it must not."""

import sys
import zipfile

names = zipfile.ZipFile(sys.argv[1]).namelist()
for wanted in (
    "minicnn/__init__.py",
    "minicnn/ops/fast/gemm.py",
    "minicnn/ops/reference/convolution.py",
    "minicnn/datasets/sample/cifar10.xz",
    "minicnn/datasets/sample/NOTICE",
    "licenses/LICENSE",
    "licenses/NOTICE",
):
    if not any(name.endswith(wanted) for name in names):
        sys.exit(f"the wheel lacks {wanted}")
strangers = {name for name in names if not name.startswith(("minicnn/", "minicnn_numba-"))}
if strangers:
    sys.exit(f"the wheel holds {sorted(strangers)}")
print(f"{len(names)} files, all in minicnn/ or metadata")
