"""Checks that need no model: pure functions of arrays, each returns a Finding.

`classes` are class numbers (n,), `train` and `held_out` inputs (n, ...) of the two splits.
"""

import hashlib
import math

import numpy as np

from minicnn.checks.findings import Finding
from minicnn.metrics.classification import majority, percent, wilson_interval

Z99 = 2.575829  # 99 % of a normal distribution lie within so many standard deviations

HASHED = 100_000  # inputs per split whose bytes are compared for duplicates
COMPARED = 5_000  # pictures per split whose looks are compared: 40 GFLOP at most
CORRELATED = 0.98  # thumbnails: beyond it two pictures are near-duplicates


def class_numbers(y):
    """Class numbers (n,) of one-hot rows or whole numbers, None for other targets."""
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] > 1:
        one_hot = np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all()
        return y.argmax(axis=1) if one_hot else None
    if y.size != len(y) or y.dtype.kind not in "iubf":
        return None
    flat = y.reshape(-1)
    if flat.dtype.kind == "f" and not np.array_equal(flat, np.round(flat)):
        return None
    numbers = flat.astype(np.int64)
    return numbers if len(numbers) and numbers.min() >= 0 else None


def called(number, names=None):
    """A class in words."""
    return f"class {number}" if names is None else str(names[number])


def check_values(x, held_out=None):
    """NaN, infinity, inputs that are all the same, inputs without any contrast."""
    name = "input values"
    for what, array in (("x", x), ("validation", held_out)):
        bad = [] if array is None else _rows_where(array, lambda r: ~np.isfinite(r).all(axis=1))
        if len(bad):
            return Finding(
                name,
                "fail",
                f"{len(bad)} of {len(array)} inputs of {what} hold NaN or infinity, the first at "
                f"index {bad[0]}",
                "finite numbers",
                "remove or replace them: x = x[np.isfinite(x).reshape(len(x), -1).all(axis=1)]",
            )
    other = _rows_where(x, lambda rows: (rows != x[:1].reshape(1, -1)).any(axis=1))
    if len(x) > 1 and not len(other):
        return Finding(
            name,
            "fail",
            f"all {len(x)} inputs are the same",
            "inputs that differ",
            "look at how x was filled: a loop that writes the same picture, or an array of zeros",
        )
    blank = _rows_where(x, lambda r: (r == r[:, :1]).all(axis=1)) if x[0].size > 1 else []
    if len(blank):
        return Finding(
            name,
            "fail" if len(blank) > len(x) / 2 else "warn",
            f"{len(blank)} of {len(x)} inputs are constant (blank), the first at index {blank[0]}",
            "none",
            "look at them: pictures that could not be read often end up as zeros",
        )
    return Finding(name, "pass", f"{len(x)} inputs, all finite, none blank", "finite, not constant")


def _rows_where(x, test):
    """Indices of the inputs for which test(rows as (n, numbers)) holds, in pieces of 1024."""
    found = [
        at + np.flatnonzero(test(x[at : at + 1024].reshape(len(x[at : at + 1024]), -1)))
        for at in range(0, len(x), 1024)
    ]
    return np.concatenate(found)


def check_scale(x, name="input scale", what="x"):
    """Whether the first weights see numbers around one: sensible mean and spread."""
    sample = np.asarray(x[:: max(1, len(x) // 256)], np.float64)
    mean, spread = float(sample.mean()), float(sample.std())
    size = math.sqrt(mean**2 + spread**2)
    measured = f"{what} has mean {mean:.3g}, standard deviation {spread:.3g}"
    expected = "numbers about -1..1: deviation 0.05 to 5, mean within 3"
    figures = {"mean": mean, "deviation": spread}
    if 0.05 <= spread <= 5 and abs(mean) <= 3:
        return Finding(name, "pass", measured, expected, figures=figures)
    advice = "standardise x: (x - x.mean()) / x.std() with the figures of the training data"
    if 20 < size < 256 and sample.min() >= 0:
        advice = "scale pixels: Rescaling(1 / 255) as the first layer, or x / 255"
    verdict = "fail" if size > 20 or size < 0.005 else "warn"
    return Finding(name, verdict, measured, expected, advice, figures)


def check_same_scale(x, held_out):
    """Training and validation inputs prepared in the same way."""
    name = "same preparation"
    if held_out is None:
        return Finding(name, "skipped", "no validation data")
    (a, s), (b, t) = (
        (float(np.mean(one, dtype=np.float64)), float(np.std(one, dtype=np.float64)))
        for one in (x, held_out)
    )
    measured = f"mean {a:.3g} and {b:.3g}, deviation {s:.3g} and {t:.3g} (training, validation)"
    ratio = max(s, t) / max(min(s, t), 1e-12) if max(s, t) else 1.0
    shift = abs(a - b) / max(s, t, 1e-12)
    verdict = "fail" if ratio > 3 or shift > 1.5 else "warn" if ratio > 1.5 or shift > 0.5 else ""
    return Finding(
        name,
        verdict or "pass",
        measured,
        "about equal",
        "prepare both alike: the same scaling, with the training data's figures" if verdict else "",
    )


def check_balance(classes, k, names=None):
    """How the classes are distributed, and the accuracy of always saying the commonest."""
    name = "class balance"
    counts = np.bincount(classes, minlength=k)
    best, share = majority(classes)
    missing = np.flatnonzero(counts == 0).tolist()
    figures = {"counts": counts.tolist(), "majority_class": best, "majority_guess": share}
    shown = ", ".join(map(str, counts[:10].tolist())) + (", ..." if len(counts) > 10 else "")
    measured = f"always saying {called(best, names)} is right in {percent(share)}; "
    measured += f"per class: {shown}"
    expected = f"{len(counts)} classes of similar size ({percent(1 / len(counts))} each)"
    if np.count_nonzero(counts) < 2:
        return Finding(
            name,
            "fail",
            f"only {called(best, names)} occurs",
            expected,
            "nothing can be learnt from one class: look at how y was made",
            figures,
        )
    advice = ""
    if missing:
        measured += f"; no sample of class {', '.join(map(str, missing[:10]))}"
        advice = "collect samples of every class, or build the model for fewer outputs"
    elif counts.max() > 4 * counts.min():
        advice = (
            f"compare every accuracy with {percent(share)}; fit(class_weight=...) or more "
            "pictures of the small classes; look at recall per class"
        )
    return Finding(name, "warn" if advice else "pass", measured, expected, advice, figures)


def check_tail(head, tail):
    """Whether the rows that validation_split takes, the last ones, hold the classes of the rest."""
    name = "sorted data"
    here, there = set(head.tolist()), set(tail.tolist())
    expected = "the same classes in both parts, in about the same shares"
    advice = (
        "validation_split takes the last rows without shuffling: shuffle x and y together before, "
        "order = np.random.permutation(len(x)); x, y = x[order], y[order]"
    )
    unseen = sorted(there - here)
    if unseen:
        return Finding(
            name,
            "fail",
            f"classes {unseen[:10]} are in the validation tail only: training never sees them",
            expected,
            advice,
        )
    k = max(max(here), max(there)) + 1
    p, q = (np.bincount(part, minlength=k) / len(part) for part in (head, tail))
    distance = float(np.abs(p - q).sum() / 2)
    # Of two honest samples this distance is about sqrt(k / (2 pi)) sqrt(1/n + 1/m) at most.
    chance = math.sqrt(k / (2 * math.pi) * (1 / len(head) + 1 / len(tail)))
    missing = sorted(here - there)
    measured = f"shares of classes differ by {percent(distance)}"
    if missing:
        measured += f"; classes {missing[:10]} are missing from the validation tail"
    figures = {"distance": distance, "by_chance": chance}
    unlikely = distance > 3 * chance and distance > 0.1
    verdict = "pass"
    if unlikely:
        verdict = "fail" if distance > 0.4 else "warn"
    elif missing and len(tail) >= 10 * k:
        verdict = "warn"
    told = f"{expected} (by chance up to {percent(chance)})"
    return Finding(name, verdict, measured, told, advice if verdict != "pass" else "", figures)


def check_mixed_batches(batches):
    """Whether the batches of a generator hold several classes each, `batches` their classes."""
    name = "sorted data"
    batches = [one for one in batches if len(one) >= 4]
    k = len(np.unique(np.concatenate(batches))) if batches else 0
    if len(batches) < 2:
        return Finding(name, "skipped", "fewer than two batches of four and more were looked at")
    alone = sum(len(np.unique(one)) == 1 for one in batches)
    measured = f"{alone} of {len(batches)} batches hold a single class"
    expected = "batches with a mixture of classes"
    if alone > len(batches) / 2 and k > 1:
        return Finding(
            name, "fail", measured, expected, "the source yields its data sorted: shuffle it"
        )
    if k == 1:
        return Finding(
            name,
            "warn",
            f"all {len(batches)} batches that were looked at hold the same class",
            expected,
            "the source may be sorted by class: shuffle it",
        )
    return Finding(name, "pass", measured, expected)


# -- duplicates -----------------------------------------------------------------------------------


def content_keys(x):
    """A hash of the bytes of every input."""
    x = np.ascontiguousarray(x)
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in x]


def thumbnails(x):
    """16 x 16 block means of pictures as unit vectors with mean 0, float32; None for others."""
    if x.ndim != 4 or min(x.shape[1:3]) < 16:
        return None
    small = np.empty((len(x), 16 * 16 * x.shape[3]), np.float32)
    rows, columns = (np.linspace(0, size, 17).astype(int) for size in x.shape[1:3])
    area = np.outer(np.diff(rows), np.diff(columns))[..., None]
    for at in range(0, len(x), 512):
        part = np.add.reduceat(x[at : at + 512].astype(np.float32), rows[:-1], axis=1)
        part = np.add.reduceat(part, columns[:-1], axis=2) / area
        part = part.reshape(len(part), -1)
        part -= part.mean(axis=1, keepdims=True)
        norm = np.linalg.norm(part, axis=1, keepdims=True)
        small[at : at + 512] = np.divide(part, norm, out=np.zeros_like(part), where=norm > 0)
    return small


def near_duplicates(x, held_out):
    """Pairs (index in x, index in held_out) of pictures that look the same.

    The rule: 16 x 16 thumbnails in colour correlate by more than 0.98. Of CIFAR-10 pictures 96 %
    are found again after JPEG compression at quality 60, 93 % after being brightened by a fifth;
    among 4,000 x 1,000 different ones no pair is that alike. Mirrored or cropped ones are missed.
    """
    left, right = thumbnails(x[:COMPARED]), thumbnails(held_out[:COMPARED])
    if left is None or right is None:
        return []
    pairs = []
    for at in range(0, len(right), 256):
        likeness = right[at : at + 256] @ left.T
        best = likeness.argmax(axis=1)
        alike = np.flatnonzero(likeness[np.arange(len(best)), best] > CORRELATED)
        pairs += [(int(best[i]), int(at + i)) for i in alike]
    return pairs


def check_duplicates(x, held_out):
    """Inputs that stand in both splits, by a hash of their bytes; pictures that look the same."""
    name = "duplicates"
    if held_out is None:
        return Finding(name, "skipped", "no validation data")
    x, held_out = x[:HASHED], held_out[:HASHED]
    if x.shape[1:] != held_out.shape[1:]:
        return Finding(name, "skipped", f"shapes {x.shape[1:]} and {held_out.shape[1:]} differ")
    if x.dtype != held_out.dtype:
        x, held_out = x.astype(np.float32), held_out.astype(np.float32)
    known = {key: index for index, key in enumerate(content_keys(x))}
    twice = [(known[key], i) for i, key in enumerate(content_keys(held_out)) if key in known]
    exact = {index for _, index in twice}
    near = [pair for pair in near_duplicates(x, held_out) if pair[1] not in exact]
    count = len(held_out)
    measured = f"{len(exact)} of {count} validation inputs are also training inputs"
    if x.ndim == 4:
        measured += f", {len(near)} more look the same"
    figures = {"exact": len(exact), "near": len(near), "pairs": (twice + near)[:20]}
    if not exact and not near:
        return Finding(name, "pass", measured, "none", figures=figures)
    first = (twice or near)[0]
    verdict = "fail" if len(exact) > max(1, 0.01 * count) else "warn"
    return Finding(
        name,
        verdict,
        measured,
        "none",
        f"validation measures memory, not learning: remove them from one side (e.g. training "
        f"{first[0]} and validation {first[1]}); split by person or by scene, not by picture",
        figures,
    )


def check_contradictions(x, classes):
    """Equal inputs with different labels."""
    name = "label conflicts"
    seen, wrong, twice = {}, [], 0
    for index, key in enumerate(content_keys(x[:HASHED])):
        other = seen.setdefault(key, index)
        if other != index:
            twice += 1
            if classes[other] != classes[index]:
                wrong.append((other, index))
    measured = f"{twice} inputs occur again, {len(wrong)} of them with another label"
    if not wrong:
        return Finding(name, "pass", measured, "none with another label")
    return Finding(
        name,
        "fail" if len(wrong) > 0.01 * len(x) else "warn",
        measured,
        "none with another label",
        f"look at inputs {wrong[0][0]} and {wrong[0][1]}: the same picture, two labels; x and y "
        "may have been shuffled apart",
        {"pairs": wrong[:20]},
    )


def smallest_telling(share, count):
    """The smallest accuracy on `count` samples whose interval lies above `share`; None if none."""
    low, high = 0, count + 1
    while low < high:
        middle = (low + high) // 2
        if wilson_interval(middle, count)[0] > share:
            high = middle
        else:
            low = middle + 1
    return None if low > count else low / count


def check_size(classes, names=None):
    """Whether the validation data is large enough to tell a model from the majority guess."""
    name = "validation size"
    if classes is None:
        return Finding(name, "skipped", "no validation data with classes")
    count = len(classes)
    best, share = majority(classes)
    least = smallest_telling(share, count)
    advice = "hold out more pictures (a few hundred), or cross-validate"
    expected = "an accuracy 10 points above the guess can be told from it"
    if least is None:
        return Finding(
            name,
            "fail",
            f"{count} samples, {percent(share)} of them {called(best, names)}: not even a perfect "
            "model could be told from that guess",
            expected,
            advice,
            {"count": count},
        )
    measured = (
        f"{count} samples; accuracies up to {percent(least)} cannot be told from always saying "
        f"{called(best, names)} ({percent(share)})"
    )
    figures = {"count": count, "majority_guess": share, "least_telling": least}
    enough = least - share <= 0.1 or (1 - share < 0.1 and least <= (1 + share) / 2)
    verdict = "pass" if enough else "warn"
    return Finding(name, verdict, measured, expected, "" if enough else advice, figures)


def check_above_guess(right, classes, name, whose, names=None):
    """Whether an accuracy on held-out classes is above always saying the commonest one."""
    count = len(classes)
    best, share = majority(classes)
    low, high = wilson_interval(right, count)
    measured = (
        f"{whose}: {percent(right / count)} of {count} right, 95 % interval {percent(low)} to "
        f"{percent(high)}"
    )
    figures = {"accuracy": right / count, "interval": (low, high), "majority_guess": share}
    return Finding(
        name,
        "pass" if low > share else "fail",
        measured,
        f"above always saying {called(best, names)}: {percent(share)}",
        figures=figures,
    )
