"""Which pictures train, validate and test: classes in proportion, copies in one part."""

import hashlib

import numpy as np

from minicnn.checks.arrays import COMPARED, CORRELATED, thumbnails


def groups_of_alike(paths, pixels=None):
    """A number for each picture, equal for copies of a file and, by `pixels`, for look-alikes."""
    group = np.arange(len(paths))

    def find(i):
        while group[i] != i:
            group[i] = group[group[i]]
            i = group[i]
        return i

    seen = {}
    for i, path in enumerate(paths):
        with open(path, "rb") as file:
            key = hashlib.file_digest(file, "sha256").digest()
        group[find(i)] = find(seen.setdefault(key, i))
    small = None if pixels is None or len(pixels) > COMPARED else thumbnails(pixels)
    if small is not None:
        for at in range(0, len(small), 256):
            alike = np.argwhere(small[at : at + 256] @ small.T > CORRELATED)
            for i, j in alike:
                group[find(at + i)] = find(j)
    return np.array([find(i) for i in range(len(group))])


def stratified_split(labels, groups, shares, seed):
    """Rows of each part: every class in the given shares, no group in two parts.

    shares: {"train": 0.7, "validation": 0.15, "test": 0.15}. A class with few groups is in training
    first, then in validation, then in the test.
    """
    generator = np.random.default_rng(seed)
    rows = {part: [] for part in shares}
    place = {}  # of groups that hold several classes
    for number in np.unique(labels):
        members = {}
        for i in np.flatnonzero(labels == number):
            members.setdefault(int(groups[i]), []).append(int(i))
        order = generator.permutation(list(members)).tolist()
        order.sort(key=lambda group: -len(members[group]))
        total = sum(map(len, members.values()))
        missing = {part: share * total for part, share in shares.items()}
        chosen = {part: [] for part in shares}
        for group in order:
            part = place.get(group) or max(missing, key=missing.get)
            missing[part] -= len(members[group])
            chosen[part].append(group)
        for part in list(shares)[1:]:
            if shares[part] and not chosen[part] and len(chosen["train"]) > 1:
                chosen[part].append(chosen["train"].pop())
        for part, some in chosen.items():
            place.update(dict.fromkeys(some, part))
            rows[part] += [i for group in some for i in members[group]]
    return {part: np.array(sorted(some), np.int64) for part, some in rows.items()}
