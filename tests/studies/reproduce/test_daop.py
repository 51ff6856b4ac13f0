"""What DAOP's evaluation states: each figure has a measure, and its short runs give it."""

from statistics import mean

import pytest

import moelab
from studies.reproduce import daop
from studies.reproduce.claims import load_claims
from studies.reproduce.measure import Results
from studies.reproduce.reproduce import measures_of


def results(name: str) -> Results:
    return {key: moelab.run(case.run, case.settings) for key, case in daop.MEASURES[name].cases(True).items()}


def test_every_claim_has_a_measure_and_every_case_names_a_run() -> None:
    claims = load_claims("daop")
    measures = measures_of("daop", claims)
    assert len(measures) == 20
    for measure in measures.values():
        for case in measure.cases(False).values():
            moelab.load(case.run, case.settings)


def test_statistics_need_no_run() -> None:
    assert daop.MEASURES["prefill_decode_similarity"].value({}) == pytest.approx(96.6, abs=0.1)
    assert 50 < float(daop.MEASURES["prediction_accuracy"].value({}) or 0) < 80
    assert daop.MEASURES["hellaswag"].value({}) is None


@pytest.mark.slow
def test_a_gain_is_the_ratio_of_two_decodes() -> None:
    of = results("gain_over_fiddler")
    mine, other = of["daop mixtral 0.469"], of["fiddler mixtral 0.469"]
    assert (mine.policy, other.policy, mine.machine) == ("daop", "fiddler", "a6000-daop-mixtral")
    gain = (mine.phases["decode"].tokens_per_s or 0) / (other.phases["decode"].tokens_per_s or 1)
    assert daop.MEASURES["gain_over_fiddler"].value(of) == pytest.approx(100 * (gain - 1))
    assert gain > 1


def test_the_mean_is_over_models_and_cache_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    gains = {("mixtral", ratio): 1.5 for ratio in daop.RATIOS} | {("phi", ratio): 1.1 for ratio in daop.RATIOS}
    monkeypatch.setattr(daop, "gain", lambda _, model, ratio: gains[model, ratio])
    monkeypatch.setattr(daop, "ratios_in", lambda *_: daop.RATIOS)
    assert daop.mean_gain({}) == pytest.approx(100 * (mean([1.5, 1.1]) - 1))
    assert daop.grows({}) is False
