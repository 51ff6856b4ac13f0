"""A skipped test fails the run, unless tests/skips.txt names it or its reason and says why.

Each line of the list is `PATTERN -- WHY`; a pattern is a test's id or, after `reason: `, what the skip says;
`*` stands for anything. Loaded under CI with `-p tests.plugins.skips`.
"""

import re
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SKIPS = Path(__file__).resolve().parents[1] / "skips.txt"


def entries(text: str) -> list[tuple[bool, re.Pattern[str]]]:
    """The list's patterns, each with whether it is one of reasons; a line without a why is an error."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        pattern, separator, why = line.partition(" -- ")
        if not separator or not why.strip():
            raise pytest.UsageError(f"skips.txt line {number} has no ' -- WHY': {line!r}")
        is_reason = pattern.startswith("reason:")
        wanted = pattern.removeprefix("reason:").strip()
        found.append((is_reason, re.compile(".*".join(map(re.escape, wanted.split("*"))), re.DOTALL)))
    return found


@dataclass(eq=False)  # pytest keeps its plugins in sets
class Skips:
    """The skips that the list does not allow."""

    allowed: list[tuple[bool, re.Pattern[str]]]
    unlisted: dict[str, str] = field(default_factory=dict)

    def note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        """Keep a skipped report that no line of the list allows."""
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        if not any(pattern.fullmatch(reason if of_reason else report.nodeid) for of_reason, pattern in self.allowed):
            self.unlisted[report.nodeid] = reason

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.note(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.unlisted and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(wrapper=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Generator[None]:
        yield
        if self.unlisted:
            terminalreporter.section("skipped, and not on the list", sep="=", red=True)
            for nodeid, reason in sorted(self.unlisted.items()):
                terminalreporter.write_line(f"{nodeid}: {reason}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--skips", type=Path, default=SKIPS, help="the list of tests that may be skipped")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the workers of a parallel run report to the one that started them
        config.pluginmanager.register(Skips(entries(config.getoption("--skips").read_text(encoding="utf-8"))))
