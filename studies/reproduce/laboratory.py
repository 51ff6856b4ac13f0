"""Carries out runs for measures: each once, over all cores, and keeps their results while it is there."""

from collections.abc import Iterable

from cluster.config.reading import load_run
from cluster.observe.result import Result
from cluster.session import Named, Progress, Silent
from emulation.errors import MoelabError
from studies.reproduce.measure import Case
from studies.sweep import carry_out_all
from studies.sweep_crew import Crew
from studies.sweep_study import Point, fingerprint

HERE = ("transport=local", "clock=virtual", "against=[]", "timeline.max_ops=0")
"""What a laboratory sets itself: one policy's run, in one process, without a timeline."""


class Laboratory:
    """Results of cases. `failed`: case -> why its run failed."""

    def __init__(self, crew: Crew, progress: Progress | None = None) -> None:
        self._crew, self._progress = crew, progress or Silent()
        self._results: dict[str, Result] = {}
        self._keys: dict[Case, str] = {}
        self._why: dict[str, str] = {}
        self.failed: dict[Case, str] = {}
        self.runs = 0

    def carry_out(self, cases: Iterable[Case], what: str) -> None:
        """Run all that has not run yet; `what` goes before what progress hears."""
        waiting: dict[str, Point] = {}
        for case in dict.fromkeys(cases):
            if case in self._keys or case in self.failed:
                continue
            try:
                config = load_run(case.run, [*case.settings, *HERE])
                key = self._keys[case] = fingerprint(config)
            except MoelabError as error:
                self.failed[case] = str(error)
                continue
            if key not in self._results and key not in self._why:
                waiting[key] = Point(key, {}, config)
        for answer in carry_out_all(waiting.values(), self._crew, Named(what, self._progress), keep=True):
            self.runs += 1
            key = answer.row["point"]
            if answer.result is None:
                self._why[key] = str(answer.row["error"])
            else:
                self._results[key] = Result.from_json(answer.result)
        self.failed |= {case: self._why[key] for case, key in self._keys.items() if key in self._why}

    def result(self, case: Case) -> Result:
        """The result of a case that was carried out and did not fail."""
        return self._results[self._keys[case]]
