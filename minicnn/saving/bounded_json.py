"""JSON from files that nobody vouches for: bounded depth and size, no duplicates, no NaN."""

import json
import math
import re

from minicnn.errors import FormatError

DEEPEST = 256  # a model nested 20 times has about 160 levels
MOST_ITEMS = 1_000_000
LONGEST_INTEGER = 19  # digits: fits 64 bits
LONGEST_STRING = 1 << 16

_STRING = re.compile(r'"(?:[^"\\]+|\\.)*+"', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")


def dumps(value):
    """The value as JSON bytes; ValueError for NaN and infinity."""
    return json.dumps(value, allow_nan=False).encode()


def loads(data, where):
    """The value of JSON bytes; FormatError, beginning with `where`, for anything doubtful."""

    def fail(message):
        raise FormatError(f"{where}: {message}")

    def integer(digits):
        if len(digits.lstrip("-")) > LONGEST_INTEGER:
            fail(f"an integer of {len(digits)} digits, allowed are {LONGEST_INTEGER}")
        return int(digits)

    def real(digits):
        value = float(digits) if len(digits) <= 64 else math.inf
        if not math.isfinite(value):
            fail(f"a number out of range: {digits[:40]}")
        return value

    def unique(pairs):
        made = dict(pairs)
        if len(made) != len(pairs):
            keys = [key for key, _ in pairs]
            fail(f"the key {next(k for k in keys if keys.count(k) > 1)[:80]!r} comes twice")
        return made

    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        fail(f"byte {error.start}: not UTF-8")
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MOST_ITEMS:
        fail(f"more than {MOST_ITEMS} items")
    depth = 0
    # Measured before parsing: the parser recurses, and a stack may be set deeper than it is.
    for bracket in _BRACKET.finditer(_STRING.sub('""', text)):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > DEEPEST:
            fail(f"nested more than {DEEPEST} levels deep")
    try:
        value = json.loads(
            text,
            object_pairs_hook=unique,
            parse_constant=lambda token: fail(f"{token} is not JSON"),
            parse_int=integer,
            parse_float=real,
        )
    except json.JSONDecodeError as error:
        fail(f"byte {error.pos}: {error.msg}")
    _check_strings(value, fail)
    return value


def _check_strings(value, fail):
    if isinstance(value, str):
        if len(value) > LONGEST_STRING:
            fail(f"a string of {len(value)} characters, allowed are {LONGEST_STRING}")
        try:
            value.encode()
        except UnicodeEncodeError:
            fail("a string with half a surrogate pair")
    elif isinstance(value, list):
        for item in value:
            _check_strings(item, fail)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_strings(key, fail)
            _check_strings(item, fail)
