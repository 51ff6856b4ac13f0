"""Hardware files: every shipped one is sound, the template can be copied, and faults are told in one sentence."""

import copy
from pathlib import Path
from typing import Any

import pytest

from cluster.build import build_machine
from cluster.config.hardware import Dtype, Hardware
from cluster.config.load import load_hardware, load_precision, parse_yaml, read_yaml, validate
from cluster.config.names import CONFIGS, names
from cluster.config.quantities import constants
from cluster.config.reading import with_constants
from emulation.errors import ConfigError

TEMPLATE = read_yaml(CONFIGS / "hardware" / "template.yaml")


def refusal(data: object) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(Hardware, data, "file")
    text = str(caught.value)
    assert "\n" not in text
    return text


def changed(path: str, value: object) -> dict[str, Any]:
    """The template with one value put in (or taken out, by `...`)."""
    data: dict[str, Any] = copy.deepcopy(TEMPLATE)
    place: Any = data
    *way, last = path.split(".")
    for key in way:
        place = place[int(key) if isinstance(place, list) else key]
    if value is ...:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return data


@pytest.mark.parametrize("name", names("hardware"))
def test_shipped_machine_is_sound_at_every_size(name: str) -> None:
    hardware = load_hardware(name)
    dtype: Dtype = "int8" if name.startswith("chiplet") else "bf16"
    for extreme in ("min", "max", "default"):
        options = {key: getattr(parameter, extreme) for key, parameter in hardware.parameters.items()}
        machine = build_machine(hardware, options, dtype, name)
        assert machine.stores
        assert len({link.name for link in machine.links}) == len(machine.links)


@pytest.mark.parametrize("name", names("hardware"))
def test_every_assumed_constant_has_a_range_with_room(name: str) -> None:
    for path, quantity in constants("hardware", load_hardware(name)):
        if quantity.kind == "assumed":
            assert quantity.range is not None, path
            assert quantity.range[0] != quantity.range[1], path


def test_there_are_the_machines_that_are_promised() -> None:
    assert {"edge-gpu-ndp", "cxl-ndp", "chiplet-2x2", "chiplet-3x3", "chiplet-4x4", "cpu-gpu-a6000",
            "h200-host"} <= set(names("hardware"))


def test_template_is_copied_edited_and_found_by_path(tmp_path: Path) -> None:
    text = (CONFIGS / "hardware" / "template.yaml").read_text()
    text = text.replace('value: "24 GB"', 'value: "48 GB"').replace("default: 4", "default: 8")
    (tmp_path / "mine.yaml").write_text(text)
    machine = build_machine(load_hardware("mine.yaml", tmp_path), {}, "bf16", "mine")
    assert machine.devices[0].memory_bytes == 48 * 10**9
    assert [device.name for device in machine.devices[1:]] == [f"unit{i}" for i in range(8)]


@pytest.mark.parametrize(("path", "value", "told"), [
    ("devices.gpu.memry", 3, "devices.gpu: unknown key 'memry'; did you mean 'memory'"),
    ("devices.gpu.memory", "24 GB", "devices.gpu.memory: '24 GB' has no source"),
    ("devices.gpu.kind", "cgu", "did you mean 'gpu'"),
    ("devices.gpu.runs", ["attention", "expret"], "did you mean 'expert'"),
    ("devices.gpu.runs", ["head"], "'head' stands in runs and in kernels"),
    ("devices.gpu.kernels", {"hed": {}}, "did you mean 'head'"),
    ("devices.gpu.peak", {"bf61": TEMPLATE["devices"]["gpu"]["peak"]["bf16"]}, "did you mean 'bf16'"),
    ("devices.gpu.peak", {}, "runs needs overhead, memory_bandwidth and peak"),
    ("devices.gpu.lanes", [{"name": "core"}, {"name": "core"}], "the same name"),
    ("devices.gpu.copy_lanes", ["core", "core"], "the same name"),
    ("devices.gpu.lanes", ["a", "b", "a"], "the same name"),
    ("devices.unit.count", "uints", "unknown parameter 'uints'; did you mean 'units'"),
    ("devices.unit.count", 0, "below 1"),
    ("devices.unit.count", 1.5, "neither a whole number nor the name of a parameter"),
    ("devices.unit.count", True, "neither a whole number"),
    ("devices.unit.memory", ..., "experts rest here, so it needs memory"),
    ("devices.unit.rests", False, "experts rest nowhere"),
    ("devices.unit.rests", "yes", "should be true or false"),
    ("parameters.units.default", 99, "outside 1..16"),
    ("links.0.to", "unti", "did you mean 'unit'"),
    ("links.0.pattern", "all", "joins one group with itself"),
    ("links.0.pattern", "corners", "forms no mesh"),
    ("links.0.rows", 2, "rows and cols are given for pattern 'mesh'"),
    ("links.0.bandwidth", ..., "links.0.bandwidth: is missing"),
    ("homes", ["gpus"], "did you mean 'gpu'"),
    ("homes", [], "homes"),
    ("devices", {}, "devices"),
    ("title", ..., "title: is missing"),
    ("devices.gpu", None, "should be a mapping"),
])
def test_a_fault_is_told_in_one_sentence(path: str, value: object, told: str) -> None:
    assert told in refusal(changed(path, value))


def test_a_rate_may_be_given_in_one_way_only() -> None:
    fraction = TEMPLATE["devices"]["gpu"]["kernels"]["head"]["bandwidth_fraction"]
    both = {"bandwidth_fraction": fraction, "bandwidth": TEMPLATE["devices"]["gpu"]["memory_bandwidth"]}
    assert "bandwidth and bandwidth_fraction" in refusal(changed("devices.gpu.kernels.head", both))
    both = {"peak_fraction": fraction, "peak": TEMPLATE["devices"]["gpu"]["peak"]}
    assert "peak and peak_fraction" in refusal(changed("devices.gpu.kernels.head", both))


def test_issue_cost_without_issuer_is_refused() -> None:
    kernel = {"issue": TEMPLATE["devices"]["gpu"]["overhead"]}
    assert "no issuer that would pay it" in refusal(changed("devices.gpu.kernels.head", kernel))


def test_a_run_may_change_a_constant_which_is_then_assumed() -> None:
    hardware = with_constants(load_hardware("edge-gpu-ndp"),
                              {"devices.gpu.memory": "24 GB", "links.pcie.bandwidth": "32 GB/s"}, "machine m")
    memory = hardware.devices["gpu"].memory
    assert memory is not None
    assert memory.si == 24 * 10**9
    assert memory.kind == "assumed"
    assert memory.source.startswith("set by the run (the file has 16 GB: ")
    assert hardware.links[0].bandwidth.si == 32 * 10**9
    with pytest.raises(ConfigError, match=r"did you mean 'devices\.gpu\.memory'"):
        with_constants(hardware, {"devices.gpu.memry": "24 GB"}, "machine m")
    with pytest.raises(ConfigError, match="unknown unit of bytes"):
        with_constants(hardware, {"devices.gpu.memory": "24 GB/s"}, "machine m")


@pytest.mark.parametrize(("text", "told"), [
    ("a: 1\na: 2\n", "line 2 is not YAML that is read here: 'a' is given twice"),
    ("a: [1\n", "line 2 is not YAML"),
    ("- 1\n", "holds list and not a mapping"),
    ("", "holds NoneType"),
    ("1: 2\n", "the key 1 is no text"),
    ("a: &x 1\nb: *x\n", "aliases"),
    ("a: !!python/object:os.system x\n", "not YAML that is read here"),
    ("a: !!binary aGk=\n", "not YAML that is read here"),
    ("? [1, 2]\n: 3\n", "no text"),
    ("a: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
    ("a: \x07", "not YAML that is read here"),
])
def test_yaml_that_is_not_plain_is_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "file")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_date_is_text() -> None:
    assert parse_yaml("a: 2026-01-02", "file") == {"a": "2026-01-02"}


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no config file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_yaml(tmp_path / "bytes.yaml")


def test_an_unknown_name_has_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'h200-host'"):
        load_hardware("h200-hots")
    with pytest.raises(ConfigError, match="did you mean 'mxfp4'"):
        load_precision("mxfp5")
