"""What a layer or model may be called: names end up in files, file names and URLs."""

import re
import unicodedata
import warnings

LONGEST = 255  # bytes: what file systems allow
_RESERVED = re.compile(r"(con|prn|aux|nul|com[1-9]|lpt[1-9])(\..*)?", re.IGNORECASE)


def check_name(name, what, error):
    """`error` for a name that cannot be stored safely; a warning where only Windows minds."""
    problem = _problem(name)
    if problem:
        shown = ascii(name if len(name) <= 80 else name[:80] + "...") if name else repr(name)
        raise error(f"{what} is named {shown}: {problem}; rename it with name=")
    if _RESERVED.fullmatch(name):
        warnings.warn(
            f"{what} is named {name!r}, which Windows reserves: avoid it in file names",
            stacklevel=4,
        )


def _problem(name):
    if not isinstance(name, str) or not name:
        return "a name is a string that is not empty"
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return "it holds half a surrogate pair"
    if length > LONGEST:
        return f"it has {length} bytes, allowed are {LONGEST}"
    if name in (".", ".."):
        return "it means a folder"
    for character in name:
        if character in "/\\":
            return f"{character!r} separates folders"
        if unicodedata.category(character) == "Cc":
            return f"it holds the control character {character!r}"
    if not unicodedata.is_normalized("NFC", name):
        return "it is not in Unicode's normal form NFC"
    return None
