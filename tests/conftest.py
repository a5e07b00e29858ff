"""For all tests: where everything has to run, nothing may be skipped."""

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Markers of our own."""
    words = "crosses(row, *directions): shows a row of README's table of what crosses, from one end to the other"
    config.addinivalue_line("markers", words)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> "pytest.TestReport":  # type: ignore[misc]
    """A skipped test fails where `TESTS_SKIP_NOTHING` is set, as it is in CI."""
    report: pytest.TestReport = yield
    if report.skipped and os.environ.get("TESTS_SKIP_NOTHING"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped: {report.longrepr}"
    return report
