"""Energy: joules by hand, to the fraction; parts that add up; and no data, which is not zero."""

from dataclasses import replace
from fractions import Fraction
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from actors.scheduler import Scheduler
from cluster.build import build_machine
from cluster.config.hardware import Hardware
from cluster.config.load import load_hardware, validate
from cluster.config.names import CONFIGS
from cluster.config.quantities import confidence
from cluster.config.run import RunConfig
from cluster.observe import figures
from cluster.observe.attribution import Walked
from cluster.observe.energy import Draw, Rates, Spent, rates_of, spent
from cluster.observe.flight import read_flight
from cluster.observe.result import Result
from cluster.observe.schema import Constant
from cluster.observe.table import compare_details, compare_table, tables
from cluster.observe.tidy import rows
from cluster.resolve import resolve
from cluster.run import run as carry_out
from emulation.engine.spec import SpecEngine
from emulation.errors import ConfigError
from emulation.machine import Device, Kernel, Link, Machine
from emulation.model import Layer, Model, Work
from emulation.ops import Lane
from emulation.view import Setting
from schedulers.registry import load_policy
from studies.reproduce.measure import Measure, no_runs
from studies.reproduce.sweeping import choices
from studies.sweep_work import figures as columns
from tests.schedulers.rig import routing, step

from .conftest import feed, policy_of, result_of, run

GB = 10**9
TEMPLATE = yaml.safe_load((CONFIGS / "hardware" / "template.yaml").read_text())


def known(value: str) -> dict[str, Any]:
    return {"value": value, "source": "a sheet", "kind": "data_sheet"}


def machine() -> Machine:
    """A home with one expert kernel, and a store behind a link each way. A kernel: 1 ns + max(bytes, flops) ns."""
    kernels = {"expert": Kernel(1000, GB, GB)}
    return Machine("tiny", (Device("home", "gpu", 10**6, (0,), (), kernels), Device("store", "memory", 10**6,
                                                                                    rests=True)),
                   (Link("out:home>store", 0, 1, 1, GB), Link("back:store>home", 1, 0, 2, GB)),
                   (Lane("home"), Lane("out"), Lane("back")))


def spent_on(machine: Machine, rates: Rates, tokens: int) -> Spent:
    """One layer with one expert of three matrices 4 x 2, two bytes a number, which `tokens` tokens visit."""
    model = Model("one", (Layer(Work(), 0, 0, Work(0, 0, 1)),), 1, 1, 4, 2, 3, Fraction(2), Fraction(2))
    scheduler = Scheduler(Setting(machine, model, np.array([10**6, 10**6])), load_policy("on_demand", {"slots": 1}),
                          SpecEngine)
    scheduler.begin(step(0, tokens))
    scheduler.decide(routing([[0]] * tokens), None)
    scheduler.end()
    scheduler.finish()
    timed = Walked(read_flight(scheduler), scheduler.steps)
    return spent(rates, machine, figures.uses(scheduler, timed)[0], scheduler.emit.worked, scheduler.emit.moved_bytes,
                 timed.horizon_ps)


def test_power_by_hand() -> None:
    """48 bytes of weights cross the link in 48 ns; the kernel moves 48 and 24 for the token: 1 + 72 ns."""
    found = spent_on(machine(), Rates({"home": Draw(idle=Fraction(100), busy=Fraction(300))}), 1)
    ns = Fraction(1, 10**9)
    assert found.devices == {"home": {"idle": 100 * (48 + 73) * ns, "busy": 200 * 73 * ns}}
    assert found.links == {}


def test_energy_of_operations_by_hand() -> None:
    """Two tokens: the kernel moves 48 + 2 * 24 bytes for 2 * 48 flops; 48 bytes are read, carried and written."""
    rates = Rates({"home": Draw(idle=Fraction(7), a_byte=Fraction(1, 3), a_flop=Fraction(1, 11)),
                   "store": Draw(a_byte=Fraction(5))}, {"back:store>home": Fraction(1, 9)})
    found = spent_on(machine(), rates, 2)
    assert found.devices == {
        "home": {"idle": Fraction(7 * (48 + 1 + 96), 10**9), "bytes": Fraction(96 + 48, 3), "flops": Fraction(96, 11)},
        "store": {"bytes": Fraction(5 * 48)}}
    assert found.links == {"back:store>home": Fraction(48, 9)}


def test_parts_sum_to_the_whole_by_device_and_by_part() -> None:
    scheduler, _ = run(policy_of("cpu_static", slots=2), feed())
    at = scheduler.setting.machine
    timed = Walked(read_flight(scheduler), scheduler.steps)
    rates = Rates({"gpu": Draw(idle=Fraction(20), a_byte=Fraction(1, 3), a_flop=Fraction(1, 7)),
                   "cpu": Draw(idle=Fraction(3), busy=Fraction(17, 9))}, {"h2d": Fraction(1, 13)})
    found = spent(rates, at, figures.uses(scheduler, timed)[0], scheduler.emit.worked, scheduler.emit.moved_bytes,
                  timed.horizon_ps)
    devices = sum((sum(parts.values()) for parts in found.devices.values()), Fraction(0))
    assert found.joules == devices + sum(found.links.values()) == sum(found.parts.values()) != 0
    assert list(found.parts) == ["idle", "busy", "bytes", "flops", "links"]


def test_several_servers_are_busy_by_their_share() -> None:
    """The small machine's CPU has a lane of two servers: one kernel on it is half of what busy power is for."""
    scheduler, _ = run(policy_of("cpu_static", slots=2), feed())
    timed = Walked(read_flight(scheduler), scheduler.steps)
    lanes, _ = figures.uses(scheduler, timed)
    worker = next(lane for lane in lanes if lane.lane == "worker")
    found = spent(Rates({"cpu": Draw(idle=Fraction(0), busy=Fraction(2))}), scheduler.setting.machine, lanes,
                  scheduler.emit.worked, scheduler.emit.moved_bytes, timed.horizon_ps)
    assert worker.busy_ps > 0
    assert worker.servers == 2
    assert found.devices["cpu"]["busy"] == Fraction(worker.busy_ps, 10**12)


def text_of(what: Any) -> str:
    console = Console(width=200, record=True, file=StringIO())
    console.print(what)
    return console.export_text()


def test_without_data_there_is_none_and_never_zero(small: Result) -> None:
    assert small.energy is None
    assert small.no_energy_data == ("gpu", "cpu")
    assert "no energy data" in text_of(tables(small))
    assert "J/token" not in text_of(tables(small))
    assert "no energy data" in text_of(compare_table({"a": small}))
    assert not [row for row in rows(small) if row.part.startswith("energy")]
    assert not [name for name in columns(small) if "energy" in name]


def test_partial_data_says_for_which_devices_there_is_none() -> None:
    result = result_of(rates=Rates({"gpu": Draw(idle=Fraction(20))}))
    assert result.no_energy_data == ("cpu",)
    assert result.energy is not None
    assert result.energy.by_device == {"gpu": result.energy.joules}
    assert result.energy.joules == float(Fraction(20 * result.horizon_ps, 10**12))
    assert result.energy.joules_per_token == float(Fraction(20 * result.horizon_ps, 10**12 * result.emitted_tokens))
    assert result.energy.tokens_per_kilojoule == float(Fraction(1000 * result.emitted_tokens * 10**12,
                                                                20 * result.horizon_ps))
    assert "(no energy data for cpu)" in text_of(tables(result))
    assert "J/token" in text_of(tables(result))
    compared = text_of(compare_table({"a": result}))
    assert "no energy data for cpu" in compared
    assert [line.endswith("* │") for line in compared.splitlines() if "tok/kJ" in line] == [False]
    assert "J/token by device" in text_of(compare_details({"a": result}))
    whole = result_of(rates=Rates({"gpu": Draw(idle=Fraction(20)), "cpu": Draw(idle=Fraction(2))}))
    assert [line.endswith("* │") for line in text_of(compare_table({"a": whole})).splitlines() if "tok/kJ" in line] == [
        True]
    assert columns(result)["energy.gpu.joules"] == columns(result)["energy.joules"] == result.energy.joules
    assert Result.from_json(result.to_json()) == result


def with_energy(**groups: dict[str, str]) -> dict[str, Any]:
    """The template with constants of energy: group (or `link`) -> key -> value."""
    data: dict[str, Any] = yaml.safe_load(yaml.safe_dump(TEMPLATE))
    for group, keys in groups.items():
        place = data["links"][0] if group == "link" else data["devices"][group]
        place.update({key: known(value) for key, value in keys.items()})
    return data


def test_rates_are_those_of_a_group_and_of_a_link_s_entry() -> None:
    hardware = validate(Hardware, with_energy(gpu={"idle_power": "50 W", "busy_power": "0.3 kW"},
                                              unit={"energy_per_byte": "10 pJ/b", "energy_per_flop": "1 pJ/MAC"},
                                              link={"energy_per_byte": "1.17 pJ/bit"}), "file")
    found = rates_of(hardware, {"units": 2}, build_machine(hardware, {"units": 2}, "bf16"))
    unit = Draw(a_byte=Fraction(80, 10**12), a_flop=Fraction(1, 2 * 10**12))
    assert found.devices == {"gpu": Draw(idle=Fraction(50), busy=Fraction(300)), "unit0": unit, "unit1": unit}
    assert set(found.links.values()) == {Fraction(936, 10**14)}
    assert set(found.links) == {f"link:{way}" for way in ("gpu>unit0", "unit0>gpu", "gpu>unit1", "unit1>gpu")}


@pytest.mark.parametrize(("groups", "told"), [
    ({"gpu": {"idle_power": "50 J"}}, "'50 J': unknown unit of power 'J'"),
    ({"gpu": {"energy_per_byte": "5 pJ"}}, "'5 pJ': unknown unit of energy_per_byte 'pJ'"),
    ({"gpu": {"energy_per_flop": "1 pJ/b"}}, "unknown unit of energy_per_flop 'pJ/b'"),
    ({"link": {"energy_per_byte": "1.17"}}, "has no unit: write it like '1.17 pJ/b'"),
    ({"gpu": {"idle_power": "-3 W"}}, "'-3 W' is negative: a power is zero or more"),
    ({"gpu": {"idle_power": "1 W", "busy_power": "9 W", "energy_per_flop": "1 pJ/FLOP"}}, "would count twice"),
    ({"gpu": {"busy_power": "9 W"}}, "busy_power needs idle_power"),
    ({"gpu": {"idle_power": "10 W", "busy_power": "9 W"}}, "less than idle_power"),
    ({"gpu": {"power": "10 W"}}, "unknown key 'power'"),
])
def test_what_is_wrong_is_told_in_one_sentence(groups: dict[str, dict[str, str]], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(Hardware, with_energy(**groups), "file")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("keys", "told"), [
    ({"idle_power": "1 W", "busy_power": "2 W"}, "busy_power is given, and the device computes nothing"),
    ({"energy_per_flop": "1 pJ/FLOP"}, "energy_per_flop is given, and the device computes nothing"),
    ({"energy_per_byte": "1 pJ/b"}, "it has none: links have one of their own")])
def test_a_switch_neither_computes_nor_remembers(keys: dict[str, str], told: str) -> None:
    data = with_energy()
    data["devices"]["root"] = {"kind": "switch", **{key: known(value) for key, value in keys.items()}}
    with pytest.raises(ConfigError, match=told):
        validate(Hardware, data, "file")


POWERED = {"gpu": {"idle_power": "50 W", "energy_per_byte": "5 pJ/b", "energy_per_flop": "0.7 pJ/FLOP"},
           "unit": {"idle_power": "3 W", "busy_power": "11 W"}, "link": {"energy_per_byte": "4.3 pJ/b"}}


@pytest.mark.parametrize("policy", ["expert_parallel", "tensor_parallel", "lru_prefetch"])
def test_readable_and_columnar_paths_give_the_same_joules_and_digest(policy: str, tmp_path: Path) -> None:
    pytest.importorskip("numba")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(with_energy(**POWERED)))
    config = {"machine": {"name": str(tmp_path / "mine.yaml")}, "model": {"name": "olmoe-1b-7b", "layers": 2},
              "workload": {"work": "synthetic", "generator": {"name": "zipf", "skew": 0.6}, "batch": 3,
                           "prompt_tokens": 5, "output_tokens": 3}, "policy": {"name": policy}}
    plain, fast = (carry_out(RunConfig.model_validate({**config, "engine": engine})) for engine in ("spec", "compiled"))
    assert fast.energy is not None
    assert fast.energy == plain.energy
    assert fast.digest == plain.digest
    assert fast.no_energy_data == ()
    assert set(fast.energy.by_part) == {"idle", "busy", "bytes", "flops", "links"}


def test_a_constant_of_energy_is_shown_swept_and_no_part_of_the_machine_s_times(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(with_energy(**POWERED)))
    config = {"machine": {"name": str(tmp_path / "mine.yaml"), "constants": {"devices.gpu.idle_power": "70 W"}},
              "model": {"name": "olmoe-1b-7b"}, "policy": {"name": "expert_parallel"},
              "workload": {"work": "synthetic", "generator": {"name": "zipf"}, "batch": 1, "prompt_tokens": 1,
                           "output_tokens": 1}}
    setup = resolve(RunConfig.model_validate(config))
    row = next(row for row in setup.provenance if row["path"] == "hardware.devices.gpu.idle_power")
    assert (row["value"], row["si"], row["unit"]) == ("70 W", 70, "W")
    assert rates_of(setup.hardware, setup.options, setup.machine).devices["gpu"].idle == 70
    bare = validate(Hardware, TEMPLATE, "file")
    assert build_machine(bare, {}, "bf16") == build_machine(setup.hardware, {}, "bf16")
    rows = [{"path": "hardware.a.memory", "kind": "measured"}, {"path": "hardware.a.idle_power", "kind": "assumed"}]
    assert confidence(rows)["label"] == "measured"


def test_constants_of_energy_are_swept_for_figures_of_energy_only(small: Result) -> None:
    path = "hardware.devices.gpu.idle_power"
    constant = Constant(path=path, value="2 W", kind="assumed", source="a guess", range=("1 W", "3 W"))
    result = small.model_copy(update={"provenance": (constant,)})
    plain = Measure(no_runs, lambda _: None, "none")
    assert choices(plain, {"a": result}) == []
    found = choices(replace(plain, of_energy=True), {"a": result})
    assert [choice.setting for choice in found] == ["machine.constants.devices.gpu.idle_power"]


def test_shipped_power_lies_within_reason() -> None:
    """Every machine that carries power: idle below busy, busy below a kilowatt a device."""
    for path in sorted((CONFIGS / "hardware").glob("*.yaml")):
        hardware = load_hardware(path.stem)
        for group in hardware.devices.values():
            if group.busy_power is not None and group.idle_power is not None:
                assert 0 < group.idle_power.si < group.busy_power.si <= 1000
