"""Settings of all tests. A test that is skipped or expected to fail makes the whole run fail."""

import os

import hypothesis
import pytest

os.environ["MPLBACKEND"] = "Agg"  # also in the processes that tests start
os.environ.pop("FORCE_COLOR", None)

# The same examples for everybody, and no deadline: the first example of a test compiles kernels.
# New examples: pytest --hypothesis-profile=explore
hypothesis.settings.register_profile("same", deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("same")

_not_run = []


def _record(report):
    if report.skipped:  # an expected failure (xfail) is reported as skipped, too
        _not_run.append(report.nodeid)


pytest_runtest_logreport = _record
pytest_collectreport = _record


def pytest_sessionfinish(session):
    if _not_run and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    if _not_run:
        terminalreporter.section("no test may pass by skipping", red=True)
        for name in _not_run:
            terminalreporter.write_line(name)
