"""Runs: composed by name, overridden by typed settings, resolved to what fits; every fault is one sentence."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from cluster.commands.run import with_policies
from cluster.config.load import read_yaml, validate
from cluster.config.names import CONFIGS, names, trace_path
from cluster.config.reading import load_run, policy_target
from cluster.config.run import PolicyChoice, RunConfig
from cluster.resolve import PolicyTarget, budget_bytes, cache_tokens, resolve
from cluster.run import title
from cluster.serve.setting import setup_of
from emulation.errors import ConfigError, InputError, MoelabError

SMALL: dict[str, Any] = {
    "machine": "template", "model": "olmoe-1b-7b", "policy": "expert_parallel",
    "workload": {"work": "synthetic", "generator": "balanced", "prompt_tokens": 4, "output_tokens": 2}}


def written(folder: Path, data: dict[str, Any], name: str = "mine.yaml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(yaml.safe_dump(data))
    return path


def told(data: dict[str, Any], settings: list[str], folder: Path) -> str:
    with pytest.raises(MoelabError) as caught:
        resolve(load_run(written(folder, data), settings))
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", names("run"))
def test_shipped_run_resolves_and_fits(name: str) -> None:
    setup = setup_of(load_run(name))
    assert setup.config.name == name
    assert setup.provenance
    assert (budget_bytes(setup) >= 0).all()


def test_demo_is_the_main_job() -> None:
    demo = load_run("demo")
    assert (demo.model.name, demo.transport, demo.machine.options) == ("embedded", "ray", {"units": 4})
    assert [policy.name for policy in (demo.policy, *demo.against)] == ["expert_parallel", "tensor_parallel"]
    assert demo.workload.work == "execute"
    assert resolve(demo).checkpoint is not None


@pytest.mark.parametrize("name", names("workload"))
def test_shipped_workload_is_sound(name: str) -> None:
    model = {"execute": "embedded"}.get(read_yaml(CONFIGS / "workload" / f"{name}.yaml")["work"], "mixtral-8x7b")
    validate(RunConfig, {**SMALL, "model": model, "workload": read_yaml(CONFIGS / "workload" / f"{name}.yaml")}, name)


def test_a_config_is_frozen_once_loaded() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_run("demo").seed = 3


def test_settings_are_typed_and_reach_short_forms(tmp_path: Path) -> None:
    path = written(tmp_path, SMALL)
    run = load_run(path, ["machine.options.units=8", "seed=7", "workload.generator=zipf", "workload.generator.skew=0.5",
                          "policy=tensor_parallel", "against=[on_demand, {name: lru, parameters: {slots: 4}}]",
                          "against.1.parameters.slots=2",
                          "timeline.last_s=2.5", "title=7", "limits.steps=null",
                          "machine.constants.devices.unit.memory=64 GB"])
    assert run.machine.name == "template"
    assert run.machine.options == {"units": 8}
    assert run.machine.constants == {"devices.unit.memory": "64 GB"}
    assert run.workload.generator is not None
    assert (run.seed, run.workload.generator.skew, run.timeline.last_s, run.title) == (7, 0.5, 2.5, "7")
    assert [p.name for p in (run.policy, *run.against)] == ["tensor_parallel", "on_demand", "lru"]
    assert run.against[1].parameters == {"slots": 2}
    assert resolve(run).machine.devices[1].memory_bytes == 64 * 10**9


def test_a_workload_by_name_can_be_changed_by_a_setting() -> None:
    assert load_run("mixtral_edge").workload.output_tokens == 512
    assert load_run("mixtral_edge", ["workload.output_tokens=8"]).workload.output_tokens == 8


@pytest.mark.parametrize(("settings", "sentence"), [
    (["sed=1"], "unknown setting 'sed'; did you mean 'seed'"),
    (["machine.option.units=1"], "did you mean 'options'"),
    (["seed"], "not of the form a.b=value"),
    (["=3"], "not of the form a.b=value"),
    (["seed.x=3"], "nothing below 'seed'"),
    (["against.0.name=lru"], "'0' is no place in a list of 0"),
    (["against.first=lru"], "'first' is no place in a list"),
    (["seed=x"], "seed: 'x' should be a whole number"),
    (["seed=1.5"], "seed: 1.5 should be a whole number"),
    (["seed=-1"], "seed: -1"),
    (["seed=[1"], "--set seed"),
    (["seed=true"], "seed: True should be a whole number"),
    (["workload.batch=0"], "workload.batch: 0"),
    (["workload.batch=2", "workload.work=replay"], "work: replay needs trace"),
    (["workload.trace=x"], "work: synthetic takes no trace"),
    (["workload.context_tokens=5"], "context_tokens belongs to replay"),
    (["workload.work=execute", "workload.generator=null", "workload.texts=[a]", "workload.history_tokens=5"],
     "history_tokens belongs to synthetic"),
    (["workload.output_tokens=null"], "needs prompt_tokens and output_tokens"),
    (["workload.generator=zpif"], "did you mean 'zipf'"),
    (["workload.generator.skew=.nan"], "skew"),
    (["workload.generator=hot_set"], "generator hot_set needs experts"),
    (["workload.generator={name: zipf, experts: 3}"], "generator zipf takes no experts (it takes: skew)"),
    (["workload.generator={name: affinity, experts: 3, repeat: 1.0}"], "less than or equal to 0.99"),
    (["workload=demo_prompt"], "workload"),
    (["transport=rai"], "did you mean 'ray'"),
    (["engine=compild"], "did you mean 'compiled'"),
    (["forecast=orcale"], "did you mean 'oracle'"),
    (["forecast.accuracy=0.5"], "accuracy belongs to the oracle"),
    (["forecast=next_gate"], "needs work: execute"),
    (["forecast=recorded"], "read from a trace"),
    (["timeline.first_s=2", "timeline.last_s=1"], "is not after first_s"),
    (["machine=templat"], "unknown machine 'templat'"),
    (["machine=h200-hots"], "did you mean 'h200-host'"),
    (["machine=./nowhere.yaml"], "there is no config file"),
    (["machine.options.unit=2"], "did you mean 'units'"),
    (["machine.options.units=99"], "it goes from 1 to 16"),
    (["machine.options.units=two"], "should be a whole number"),
    (["machine.constants.devices.unit.memry=1 GB"], "did you mean 'devices.unit.memory'"),
    (["model=mixtral-8x7"], "did you mean 'mixtral-8x7b'"),
    (["model.config=none.json"], "a model is given in exactly one way"),
    (["model=null"], "model"),
    (["precision=bf61"], "did you mean 'bf16'"),
    (["policy=lur"], "did you mean 'lru'"),
    (["policy=./nowhere.py"], "there is no file"),
    (["policy.parameters.slots=[1]"], "is no single value"),
    (["precision=./\0.yaml"], "precision holds a NUL character"),
    (["model.name=null", "model.config=./\0"], "model: config holds a NUL character"),
    (["model.layers=17"], "model.layers is 17, and olmoe-1b-7b has 16 MoE layers"),
    (["model.layers=0"], "model.layers"),
    (["out=[1"], None),
])
def test_a_wrong_setting_is_told_in_one_sentence(settings: list[str], sentence: str | None, tmp_path: Path) -> None:
    if sentence is None:  # text is taken as it stands
        assert load_run(written(tmp_path, SMALL), settings).out == "[1"
    else:
        assert sentence in told(SMALL, settings, tmp_path)


def test_weights_that_do_not_fit_are_told_in_one_sentence(tmp_path: Path) -> None:
    big = {**SMALL, "model": "mixtral-8x7b"}
    assert told(big, ["machine.options.units=2"], tmp_path) == (
        "mixtral-8x7b at bf16 does not fit template: its experts take 90.19 GB and the devices where experts rest "
        "(unit0, unit1) have room for 64.00 GB; choose a narrower precision, a smaller model or workload, or a machine "
        "with more memory")
    resolve(load_run(written(tmp_path, big), ["machine.options.units=2", "precision=int4"]))
    caches = told(big, ["workload.prompt_tokens=200000", "precision=int4"], tmp_path)
    assert "weights outside the experts and caches take 29.43 GB on gpu, which holds 24.00 GB" in caches


def test_budget_is_what_dense_weights_and_caches_leave() -> None:
    setup = resolve(load_run("mixtral_edge"))
    caches = 1024 * 32 * 2 * 2 * 8 * 128
    assert cache_tokens(setup) == [1024]
    assert budget_bytes(setup).tolist() == [16 * 10**9 - setup.model.dense_bytes - caches, 0, *[32 * 10**9] * 4]


def test_what_a_home_holds_leaves_less_for_experts_that_rest_there(tmp_path: Path) -> None:
    machine = read_yaml(CONFIGS / "hardware" / "template.yaml")
    machine["devices"]["gpu"]["rests"] = True
    machine["devices"]["unit"]["rests"] = False
    machine["devices"]["gpu"]["memory"]["value"] = "16.1 GB"
    written(tmp_path, machine, "machine.yaml")
    data = {**SMALL, "machine": "./machine.yaml", "model": "olmoe-1b-7b"}
    setup = resolve(load_run(written(tmp_path, data)))
    experts = 16 * 64 * 2 * 3 * 2048 * 1024
    assert setup.model.dense_bytes + experts > 13_800_000_000
    assert "have room for 12.85 GB" in told(data, ["machine.constants.devices.gpu.memory=13.8 GB"], tmp_path)


def test_caches_are_divided_among_homes(tmp_path: Path) -> None:
    machine = read_yaml(CONFIGS / "hardware" / "template.yaml")
    machine["homes"] = ["gpu"]
    machine["devices"]["gpu"]["count"] = 2
    written(tmp_path, machine, "machine.yaml")
    setup = resolve(load_run(written(tmp_path, {**SMALL, "machine": "./machine.yaml"})))
    one = 6 * 16 * 2 * 2 * 16 * 128
    free = 24 * 10**9 - setup.model.dense_bytes
    assert budget_bytes(setup).tolist()[:2] == [free - one, free]
    three = resolve(load_run(written(tmp_path, {**SMALL, "machine": "./machine.yaml"}), ["workload.batch=3"]))
    assert budget_bytes(three).tolist()[:2] == [free - 2 * one, free - one]


def test_homes_that_run_no_attention_hold_no_dense_weights(tmp_path: Path) -> None:
    data = {**SMALL, "machine": "chiplet-2x2", "precision": "int8"}
    setup = resolve(load_run(written(tmp_path, data)))
    assert "The hardware file gives no cost on its chiplet to: attention, router, head, norm." in setup.approximations
    assert budget_bytes(setup).tolist() == [157_286_400] * 4 + [32 * 10**9] * 4


def test_execute_needs_weights(tmp_path: Path) -> None:
    data = {**SMALL, "workload": "demo_prompts"}
    assert "work: execute needs weights, and 'olmoe-1b-7b' is a shape only" in told(data, [], tmp_path)
    assert "model.checkpoint: there is no folder" in told({**data, "model": {"checkpoint": "gone"}}, [], tmp_path)


def test_paths_are_relative_to_the_run(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    machine = (CONFIGS / "hardware" / "template.yaml").read_text()
    (tmp_path / "parts" / "machine.yaml").write_text(machine)
    (tmp_path / "parts" / "config.json").write_text((CONFIGS / "model" / "olmoe-1b-7b.json").read_text())
    (tmp_path / "parts" / "mine.py").write_text("class Policy: ...\n")
    data = {**SMALL, "machine": "parts/machine.yaml", "model": {"config": "parts/config.json"},
            "policy": "parts/mine.py"}
    setup = resolve(load_run(written(tmp_path, data)))
    assert setup.machine.name == "machine"
    assert setup.model.experts == 64
    assert setup.policies[0].target == str(tmp_path / "parts" / "mine.py")


def test_paths_of_a_workload_are_relative_to_the_workload(tmp_path: Path) -> None:
    written(tmp_path / "parts", {"work": "replay", "trace": "./some.npz"}, "load.yaml")
    path = written(tmp_path, {**SMALL, "workload": "parts/load.yaml"})
    with pytest.raises(InputError, match=f"workload.trace: there is no file {tmp_path}/parts/some.npz"):
        resolve(load_run(path))
    trace = tmp_path / "parts" / "some.npz"
    np.savez(trace, experts=np.tile(np.arange(8), (2, 16, 1)), num_experts=64, step=[0, 1], sequence=[0, 0],
             phase=[0, 1])
    assert resolve(load_run(path)).trace == trace
    trace.write_bytes(b"")
    with pytest.raises(InputError, match=f"{trace} is no trace file"):
        resolve(load_run(path))


def test_an_unknown_trace_is_told_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match="unknown trace 'nope'"):
        trace_path("nope", Path())


def test_a_policy_is_named_in_three_ways(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("")
    assert policy_target(PolicyChoice(name="lru", parameters={"slots": 2}), tmp_path) == (
        "schedulers.lru:Policy", {"slots": 2})
    assert policy_target(PolicyChoice(name="pkg.mod:Mine"), tmp_path) == ("pkg.mod:Mine", {})
    assert policy_target(PolicyChoice(name="mine.py"), tmp_path) == (str(tmp_path / "mine.py"), {})


def test_a_runs_parameters_go_before_the_policy_files(tmp_path: Path) -> None:
    written(tmp_path, {"title": "mine", "policy": "schedulers.lru:Policy", "parameters": {"slots": 4}}, "p.yaml")
    assert policy_target(PolicyChoice(name="p.yaml"), tmp_path)[1] == {"slots": 4}
    assert policy_target(PolicyChoice(name="p.yaml", parameters={"slots": 9}), tmp_path)[1] == {"slots": 9}


def test_what_all_policies_of_a_run_are_told_is_made_once_and_is_nobodys_to_change() -> None:
    setup = resolve(load_run("demo", ["workload={work: replay, trace: embedded-german}"]))
    assert setup.setting is setup.setting
    assert setup.setting.popularity is not None
    with pytest.raises(ValueError, match="read-only"):
        setup.setting.popularity[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        setup.setting.budget_bytes[0] = 1


def test_paths_of_a_setting_lead_on_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, here = written(tmp_path / "runs", SMALL), tmp_path / "here"
    here.mkdir()
    (here / "machine.yaml").write_text((CONFIGS / "hardware" / "template.yaml").read_text())
    (here / "config.json").write_text((CONFIGS / "model" / "olmoe-1b-7b.json").read_text())
    (here / "mine.py").write_text("class Policy: ...\n")
    monkeypatch.chdir(here)
    settings = ["machine={name: machine.yaml, options: {units: 3}}", "model.config=config.json", "model.name=null",
                "policy=mine.py"]
    config = load_run(run, settings)
    setup = resolve(config)
    assert (setup.machine.name, len(setup.machine.units), setup.model.experts) == ("machine", 3, 64)
    assert setup.policies[0].target == str(here / "mine.py")
    assert with_policies(config, "mine.py(a=1),lru").policy.name == str(here / "mine.py")
    assert "there is no config file" in told(SMALL, ["machine=other.yaml"], tmp_path / "runs")


def test_a_policy_file_is_titled_by_its_name_and_two_of_one_name_apart() -> None:
    targets = [PolicyTarget(name, name, {}) for name in ("/a/mine.py", "lru", "b/lru.py", "c/lru.py")]
    assert [title(target, targets, ()) for target in targets] == ["mine.py", "lru", "b_lru.py", "c_lru.py"]
