"""Studies of a decision that cannot be meant: each is refused in one sentence that says where."""

import contextlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from cluster.config.load import validate
from cluster.config.names import names
from cluster.main import enter
from emulation.errors import ConfigError, MoelabError
from studies.decide.ready import prepare
from studies.decide.space import grounds
from studies.decide.study import Decide, Steps, load_decide
from studies.decide.variables import draws, variables
from tests.studies.decide.rig import pair, quantity, studied, written

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"candidates": {}}, "candidates"),
    ({"objective": "ttft"}, "objective: unknown objective 'ttft'; did you mean 'ttft_p99'?"),
    ({"objectiv": "ttft_p50"}, "unknown key 'objectiv'; did you mean 'objective'?"),
    ({"objective": "goodput"}, "objective: goodput needs slo"),
    ({"slo": {"ttft": "1 s"}}, "slo belongs to objective: goodput"),
    ({"over": {"workload.batch": []}}, "over.workload.batch is [] and should be a list of values"),
    ({"over": {"workload.batch": [1, 1]}}, "over.workload.batch names a value twice"),
    ({"over": {"workload.batch": list(range(1, 2000))}}, "over makes 1999 places, and a decision has at most 1024"),
    ({"over": {"policy.parameters.slots": [1]}}, "over.policy.parameters.slots: the plane is what all candidates"),
    ({"over": {"machine": ["template"]}}, "over.machine: each candidate has its machine"),
    ({"over": {"transport": ["local"]}}, "over.transport: transport says how a run is carried out"),
    ({"over": {"workload.btch": [1]}}, "unknown setting 'btch'; did you mean 'batch'?"),
    ({"set": {"policy": "lru"}}, "set.policy: each candidate has its machine and its policies"),
    ({"uncertainty": {"samples": -1}}, "uncertainty.samples"),
    ({"uncertainty": {"samples": 10**6}}, "uncertainty.samples"),
    ({"uncertainty": {"beyond": 0.5}}, "uncertainty.beyond"),
    ({"uncertainty": {"beyond": float("nan")}}, "uncertainty.beyond"),
    ({"uncertainty": {"fixed": ["nobody.devices.gpu.memory"]}}, "unknown candidate 'nobody'"),
    ({"uncertainty": {"fixed": ["near.devices.gpu.memry"]}},
     "unknown constant of near 'devices.gpu.memry'; did you mean 'devices.gpu.memory'?"),
    ({"uncertainty": {"together": [["near.links.link.bandwidth"]]}}, "should be a list of two constants or more"),
    ({"uncertainty": {"together": [["near.links.link.bandwidth", "wide.links.link.latency"]]}},
     "links.link.latency of ./wide.yaml is a time, and links.link.bandwidth a bandwidth"),
    ({"uncertainty": {"together": [["near.links.link.bandwidth", "wide.devices.gpu.memory"]]}},
     "devices.gpu.memory of ./wide.yaml is not drawn: it has no range"),
    ({"uncertainty": {"ranges": {"near.devices.gpu.memory": {"range": ["1 GB", "2 GB"], "source": "x"}}}},
     "is ['1 GB', '2 GB'], and the file's value '80 GB' lies outside"),
    ({"uncertainty": {"ranges": {"near.devices.gpu.memory": {"range": ["90 GB", "70 GB"], "source": "x"}}}},
     "is ['90 GB', '70 GB'], its high end first: write [low, high]"),
    ({"uncertainty": {"ranges": {"near.devices.gpu.memory": {"range": ["1 s", "90 s"], "source": "x"}}}},
     "ranges.near.devices.gpu.memory: '1 s': unknown unit of bytes 's'"),
    ({"equal": {"by": "capacity", "to": "5 s"}}, "equal.to: '5 s': unknown unit of bytes"),
    ({"equal": {"by": "capacity", "to": "0 GB"}}, "equal.to is '0 GB': it is above zero"),
    ({"equal": {"by": "capacity", "to": "near", "scale": {"near": "stores"}}}, "what is aimed at stays as it is"),
    ({"equal": {"by": "capacity", "to": "1 TB"}}, "capacity cannot be made equal: near has 144 GB and no option"),
    ({"equal": {"by": "capacity", "to": "near", "scale": {"wide": "store"}}}, "unknown option 'store'; did you mean "
                                                                             "'stores'?"),
    ({"equal": {"by": "capacity", "to": "9 TB", "scale": {"near": "stores", "wide": "stores"}}},
     "near comes nearest with stores=8, which is 592 GB"),
    ({"equal": {"by": "cost", "to": "1 kUSD"}}, "nothing says what a gpu costs"),
    ({"equal": {"by": "power", "to": "1 kW"}}, "nothing says what a gpu draws"),
    ({"equal": {"by": "cost", "to": "1 kUSD", "each": {"near": {"gpu": "5 USD"}}}}, "has no source"),
    ({"equal": {"by": "cost", "to": "1 kUSD", "each": {"near": {"cpu": quantity("5 USD")}}}},
     "equal.each.near: unknown device group 'cpu'"),
    ({"equal": {"by": "weight", "to": "1 kg"}}, "unknown value 'weight'"),
    ({"limit": 3}, "and the limit is 3"),
]

OF_NEAR: list[tuple[dict[str, Any], str]] = [
    ({"policies": ["lrru"]}, "unknown policy 'lrru'"),
    ({"policies": [{"name": "lru", "parameters": {"slot": 2}}]}, "unknown parameter 'slot'; did you mean 'slots'?"),
    ({"policies": ["lru", "lru"]}, "names a policy with the same parameters twice"),
    ({"search": {"policy.parameters.slot": [1]}}, "no policy of this candidate has it: unknown parameter 'slot'"),
    ({"search": {"policy.parameters.slots": []}}, "should be a list of values, one at least, or {low, high, step}"),
    ({"search": {"policy.parameters.slots": {"low": 4, "high": 1, "step": 1}}}, "low 4.0 is above high 1.0"),
    ({"search": {"policy.parameters.slots": {"low": 0, "high": 100, "step": 0.001}}}, "makes more than 10000 values"),
    ({"set": {"transport": "local"}}, "candidates.near.set.transport: transport says how a run is carried out"),
    ({"machine": {"name": "./near.yaml", "options": {"units": 1}}}, "unknown option 'units'"),
    ({"machine": "./nowhere.yaml"}, "there is no config file"),
]


@pytest.mark.parametrize(("more", "text"), WRONG)
def test_a_study_that_cannot_be_meant_is_refused(more: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(MoelabError) as refused:
        prepare(studied(tmp_path, **more))
    assert text in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("more", "text"), OF_NEAR)
def test_a_candidate_that_cannot_be_meant_is_refused(more: dict[str, Any], text: str, tmp_path: Path) -> None:
    candidates = pair(tmp_path)
    candidates["near"] |= more
    with pytest.raises(MoelabError) as refused:
        prepare(studied(tmp_path, candidates={"near": candidates["near"]}))
    assert text in str(refused.value)


def test_every_mutilated_study_is_refused_or_read(tmp_path: Path) -> None:
    chance = random.Random(7)
    whole: dict[str, Any] = json.loads(written(tmp_path, over={"workload.batch": [1]}, equal={
        "by": "cost", "to": "near", "each": {"near": {"gpu": quantity("5 USD")}}}).read_text())
    for _ in range(300):
        data: Any = json.loads(json.dumps(whole))
        at: Any = data
        while isinstance(at, dict) and at:
            key = chance.choice(sorted(at))
            if not isinstance(at[key], dict) or chance.random() < 0.4:
                at[key] = chance.choice([None, -1, 10**30, "", [], {}, [[]], {"a": 1}, True, "x", float("inf"), "\0"])
                break
            at = at[key]
        with contextlib.suppress(ConfigError):  # one sentence; anything else is a fault of ours
            validate(Decide, data, "it")


def test_a_wrong_study_is_one_sentence_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, over={"model": ["olmoe"]})
    assert enter(["decide", "./mine.yaml"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "unknown model 'olmoe'; did you mean 'olmoe-1b-7b'?" in err
    assert enter(["decide", "qwen"]) == 2
    assert "unknown decision 'qwen'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", names("decide"))
def test_every_decision_that_ships_can_be_carried_out(name: str) -> None:
    ready = prepare(load_decide(name))
    assert any(one.status == "ran" for one in ready.fits.values())
    assert ready.study.title


def test_what_is_drawn_is_what_has_a_range_and_changes_the_objective(tmp_path: Path) -> None:
    asked = studied(tmp_path)
    found = variables(asked, grounds(asked))
    assert [one.name for one in found] == ["near.links.link.bandwidth", "wide.links.link.bandwidth",
                                           "wide.links.link.latency"]
    first = found[0]
    assert (first.log, found[1].log, found[2].log) == (True, False, True)
    assert [first.value(at) for at in (-1.0, 0.0, 1.0)] == [2e9, 6e9, 40e9]
    assert (first.value(2.0, 4.0), first.value(-2.0, 4.0)) == (160e9, 0.5e9)
    assert first.drawn(0.5) == {"near": {"links.link.bandwidth": "8944271910 B/s"}}
    assert found[1].drawn(0.5) == {"wide": {"links.link.bandwidth": "1.25e+10 B/s"}}
    cube = draws(8, 3, 5)
    assert (cube == draws(8, 3, 5)).all()
    assert all(sorted((cube[:, j] * 8).astype(int)) == list(range(8)) for j in range(3))


def test_steps_include_both_ends_and_stay_whole() -> None:
    assert Steps(low=1, high=4, step=1).values() == (1, 2, 3, 4)
    assert Steps(low=0.1, high=0.3, step=0.1).values() == pytest.approx((0.1, 0.2, 0.3))
    assert all(isinstance(value, int) for value in Steps(low=2, high=8, step=3).values())


def test_the_slo_of_served_requests_is_part_of_their_workload(tmp_path: Path) -> None:
    served = {"requests": 2, "prompt_tokens": 4, "output_tokens": 2}
    work = {"workload": {"work": "synthetic", "generator": "balanced", "serving": served}}
    asked = studied(tmp_path, set=work, objective="goodput", slo={"tpot": "15 ms"})
    for ground in grounds(asked).values():
        serving = ground.point({}, next(ground.choices())).config.workload.serving
        assert serving is not None
        assert serving.slo is not None
        assert (serving.slo.tpot, serving.slo.ttft) == ("15 ms", None)
