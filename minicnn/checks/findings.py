"""Finding: one verdict. Report: all of them, printed as a table."""

from dataclasses import dataclass

VERDICTS = ("pass", "warn", "fail", "skipped")
_STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}


@dataclass(frozen=True)
class Finding:
    """What one check found: verdict, the measured figure, what was expected, what to do.

    verdict is "pass", "warn", "fail" or "skipped"; of the last, `measured` holds the reason.
    `figures` has the numbers by name.
    """

    name: str
    verdict: str
    measured: str
    expected: str = ""
    advice: str = ""
    figures: dict | None = None

    def __str__(self):
        advice = f"; {self.advice}" if self.advice and self.verdict in ("warn", "fail") else ""
        expected = f" (expected: {self.expected})" if self.expected else ""
        return f"{self.name}: {self.verdict}: {self.measured}{expected}{advice}"


class Report:
    """The findings by name, in order: report["first loss"].verdict. True if no check failed."""

    def __init__(self, findings, title="Training check"):
        self.rows, self.title = list(findings), title

    def _with(self, verdict):
        return [row for row in self.rows if row.verdict == verdict]

    @property
    def failed(self):
        return self._with("fail")

    @property
    def warned(self):
        return self._with("warn")

    @property
    def skipped(self):
        return self._with("skipped")

    def __bool__(self):
        return not self.failed

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        """The names, as of a dict."""
        return (row.name for row in self.rows)

    keys = __iter__

    def __contains__(self, name):
        return any(row.name == name for row in self.rows)

    def __getitem__(self, name):
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no check {name!r}; there are: {', '.join(self)}")

    def as_dict(self):
        """Plain values, for JSON."""
        return {
            row.name: {
                "verdict": row.verdict,
                "measured": row.measured,
                "expected": row.expected,
                "advice": row.advice,
                **(row.figures or {}),
            }
            for row in self.rows
        }

    def __repr__(self):
        counts = [f"{len(self._with(v))} {v}" for v in VERDICTS if self._with(v)]
        return f"<{self.title}: {', '.join(counts)}>"

    def __str__(self):
        from rich.console import Console  # here, not above: it takes 50 ms to import

        console = Console(force_terminal=False, highlight=False, width=100)
        with console.capture() as capture:
            console.print(self)
        return capture.get().rstrip("\n")

    def __rich__(self):
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(title=self.title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
        table.add_column("Check", no_wrap=True)
        table.add_column("Verdict", no_wrap=True)
        table.add_column("Measured", overflow="fold", ratio=3)
        table.add_column("Expected", overflow="fold", ratio=2)
        for row in self.rows:
            verdict = Text(row.verdict, _STYLES[row.verdict])
            table.add_row(row.name, verdict, Text(row.measured), Text(row.expected))
        parts = [table]
        for row in [*self.failed, *self.warned]:
            if row.advice:
                parts.append(Text.assemble((f"{row.name}: ", _STYLES[row.verdict]), row.advice))
        parts.append(Text(self.summary))
        return Group(*parts)

    @property
    def summary(self):
        """One line: how many failed, warned, were skipped."""
        passed, skipped = len(self._with("pass")), len(self.skipped)
        return (
            f"{len(self.failed)} failed, {len(self.warned)} warnings, {passed} passed, "
            f"{skipped} skipped"
        )

    def print(self):
        """Print the table."""
        from rich.console import Console

        Console(highlight=False).print(self)
