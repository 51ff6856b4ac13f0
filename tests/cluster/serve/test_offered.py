"""Runs that come over the network reach nothing but what ships."""

import json

import pytest

from cluster.config.names import CONFIGS
from cluster.config.run import RunConfig
from cluster.serve.offered import LONGEST_TEXT, dumped, offered_run, undumped
from emulation.errors import ConfigError

GOOD = """
machine: edge-gpu-ndp
model: embedded
policy: expert_parallel
workload: {work: synthetic, generator: balanced, prompt_tokens: 8, output_tokens: 4}
"""
SERVED = ("workload={work: synthetic, generator: balanced, serving: {requests: 2, prompt_tokens: 8, output_tokens: 4, "
          "%s}}")


def test_a_config_as_yaml_and_as_json_is_the_same_run() -> None:
    import yaml

    run = offered_run(None, GOOD, [])
    assert run == offered_run(None, json.dumps(yaml.safe_load(GOOD)), [])
    assert run.transport == "local"


@pytest.mark.parametrize("name", ["demo", "mixtral_edge", "qwen3_serve"])
def test_what_ships_is_taken_and_survives_the_way_to_its_process(name: str) -> None:
    run = offered_run(name, None, ["seed=3", "limits.steps=2"])
    again = undumped(json.loads(json.dumps(dumped(run))))
    assert isinstance(again, RunConfig)
    assert (again, again.name, again.folder) == (run, name, CONFIGS / "run")


@pytest.mark.parametrize("setting", [
    "machine=./machine.yaml", "machine=../hardware/edge-gpu-ndp.yaml", "machine=template", "machine=/etc/passwd",
    "model={config: /etc/passwd}", "model={checkpoint: moe/embedded}", "model=moe", "model=../embedded",
    "precision=../precision/bf16.yaml", "policy=schedulers.lru:Policy", "policy=os:system", "policy=my_policy.py",
    "policy=/etc/x.py", "against=[{name: 'os:system'}]", "out=results", "out=/etc", "clock=wall",
    "workload={work: execute, prompts: /etc/passwd, output_tokens: 4}",
    "workload={work: execute, prompts: ../../README.md, output_tokens: 4}",
    "workload={work: replay, trace: ../../x.npz}", "workload={work: replay, trace: '~/x.npz'}",
    "workload={work: replay, trace: \"a\\0b/c.npz\"}",
    "workload={work: synthetic, generator: {fitted: /etc/passwd}, prompt_tokens: 8, output_tokens: 4}",
    SERVED % "batcher: 'os:system'", SERVED % "batcher: my_batcher.py", SERVED % "recorded: /etc/passwd",
])
def test_files_code_and_places_are_refused_in_one_sentence(setting: str) -> None:
    import yaml

    key, _, value = setting.partition("=")
    text = json.dumps({**yaml.safe_load(GOOD), key: yaml.safe_load(value)})
    with pytest.raises(ConfigError) as error:
        offered_run(None, text, [])
    assert "\n" not in str(error.value)
    assert str(CONFIGS) not in str(error.value)


@pytest.mark.parametrize(("name", "text", "settings"), [
    ("../run/demo", None, []), ("nothing", None, []), ("", None, []), (None, "", []), (None, "[1]", []),
    (None, "a: &a [*a]", []), (None, "x" * (LONGEST_TEXT + 1), []), (None, GOOD, ["out=x"]),
    (None, GOOD, ["seed=1"] * 101), (None, GOOD + "workload: ../workload/chat_512.yaml", []),
    (None, "workload: ../workload/chat_512.yaml", []),
])
def test_names_texts_and_settings_are_bounded(name: str | None, text: str | None, settings: list[str]) -> None:
    with pytest.raises(ConfigError):
        offered_run(name, text, settings)
