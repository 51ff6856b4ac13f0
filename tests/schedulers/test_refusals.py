"""What each policy says, word for word, of a parameter or a machine that it cannot use."""

import dataclasses

import numpy as np
import pytest

from emulation.errors import ConfigError
from emulation.machine import Machine
from schedulers.registry import load_policy
from tests.schedulers.rig import chiplets, eager_host, gpu_and_units, gpus, model, setting

ONE_HOME = ("cpu_precalc", "cpu_static", "lru", "lru_prefetch", "on_demand", "resident")


def told(name: str, machine: Machine, popularity: np.ndarray | None = None) -> str:
    with pytest.raises(ConfigError) as refused:
        load_policy(name, {}).start(setting(machine, model(moe_layers=2, experts=6, top_k=1), popularity=popularity))
    return str(refused.value)


@pytest.mark.parametrize(("name", "least"), [("cpu_precalc", 1), ("cpu_static", 0), ("expert_parallel", 1), ("lru", 1),
                                             ("lru_prefetch", 1), ("on_demand", 1), ("tensor_parallel", 1)])
def test_too_few_slots_are_refused_by_the_name_of_the_policy(name: str, least: int) -> None:
    with pytest.raises(ConfigError) as refused:
        load_policy(name, {"slots": least - 1})
    assert str(refused.value) == f"{name}: slots is {least - 1}; it is at least {least}"
    assert load_policy(name, {"slots": least}).slots == least  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ONE_HOME)
def test_several_homes_are_refused(name: str) -> None:
    assert told(name, chiplets()) == (f"{name} keeps experts on one home, and machine 'chiplets' has 4: "
                                      "use expert_parallel or tensor_parallel")


@pytest.mark.parametrize("name", [name for name in ONE_HOME if name != "resident"])
def test_a_home_alone_is_refused(name: str) -> None:
    asked = " and run" if name.startswith("cpu_") else ""
    assert told(name, gpus(1)) == (f"{name} needs a device beside the home on which experts rest{asked}, "
                                   "and machine 'gpus' has none")


def test_a_memory_that_computes_nothing_holds_experts_and_runs_none() -> None:
    machine = gpu_and_units(2)
    units = tuple(dataclasses.replace(unit, lanes=()) for unit in machine.devices[1:])
    memory = dataclasses.replace(machine, devices=(machine.devices[0], *units))
    start, _ = load_policy("lru", {}).start(setting(memory, model(moe_layers=1, experts=4, top_k=1)))
    assert start.rest.tolist() == [[[1], [1], [2], [2]]]
    asked = "cpu_static needs a device beside the home on which experts rest and run, "
    assert told("cpu_static", memory) == asked + "and machine 'gpu-and-units' has none"


def test_resident_needs_somewhere_to_copy_from_where_none_can_rest_at_home() -> None:
    machine = nowhere(gpu_and_units(1))
    assert told("resident", machine) == ("resident needs a device beside the home on which experts rest, "
                                         "and machine 'gpu-and-units' has none")


def nowhere(machine: Machine) -> Machine:
    """The same, but experts rest on no device."""
    return dataclasses.replace(machine, devices=tuple(dataclasses.replace(d, rests=False) for d in machine.devices))


def idle_homes(machine: Machine) -> Machine:
    """The same, but no home runs experts."""
    return dataclasses.replace(machine, devices=tuple(dataclasses.replace(d, kernels={}) for d in machine.devices))


@pytest.mark.parametrize("name", ["expert_parallel", "tensor_parallel"])
def test_a_machine_without_shares_is_refused(name: str) -> None:
    assert told(name, idle_homes(chiplets())) == (
        f"{name} needs devices that run experts; machine 'chiplets' has none that can reach them")
    assert told(name, nowhere(gpu_and_units(1))) == (
        f"{name} needs devices that run experts; machine 'gpu-and-units' has no place where experts rest")


def test_a_home_that_nothing_leads_to_is_refused() -> None:
    cut = dataclasses.replace(chiplets(), links=())
    assert told("expert_parallel", cut) == "no links lead from where experts rest to 'chiplet0'"


def test_a_history_of_another_model_is_refused() -> None:
    assert told("lru", gpu_and_units(1), np.zeros((2, 5), np.int64)) == (
        "the history counts (2, 5) (layers, experts), but the model has (2, 6)")


def test_an_expert_with_fewer_columns_than_units_is_refused() -> None:
    assert told("tensor_parallel", gpu_and_units(9)) == (
        "tensor_parallel cuts an expert into 9 slices, one a unit of machine 'gpu-and-units', "
        "and an expert of 'hand-made' has 8 columns")
    load_policy("tensor_parallel", {}).start(setting(gpu_and_units(8), model(moe_layers=1, experts=2, top_k=1)))


def test_cpu_static_without_slots_runs_everything_beside_the_home() -> None:
    start, where = load_policy("cpu_static", {"slots": 0}).start(
        setting(eager_host(), model(moe_layers=2, experts=6, top_k=1)))
    assert where.tolist() == [[1] * 6] * 2
    assert not start.copies[0].any()
