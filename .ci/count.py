"""Add up pytest's result files; anything but passed tests, or no test at all, is a failure."""

import sys
from xml.etree import ElementTree

KINDS = ("failures", "errors", "skipped")
total = dict.fromkeys(("tests", *KINDS), 0)
for path in sys.argv[1:]:
    for suite in ElementTree.parse(path).iter("testsuite"):
        for kind in total:
            total[kind] += int(suite.get(kind, 0))
passed = total["tests"] - sum(total[kind] for kind in KINDS)
failed = total["failures"] + total["errors"]
print(f"{passed} passed, {failed} failed, {total['skipped']} skipped")
sys.exit(passed == 0 or passed != total["tests"])
