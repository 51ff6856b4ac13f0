"""From a hardware file to a machine: exact rates, lanes that are shared as the file says, XY routes."""

from collections.abc import Mapping

import pytest

from cluster.build import build_machine, device_names, fallbacks, resolve_options
from cluster.config.hardware import Dtype, Hardware
from cluster.config.load import load_hardware, read_yaml, validate
from cluster.config.names import CONFIGS
from emulation.errors import ConfigError
from emulation.machine import Kernel, Machine

US = 10**6


def machine_of(name: str, dtype: Dtype = "bf16", options: Mapping[str, int] | None = None) -> Machine:
    return build_machine(load_hardware(name), options or {}, dtype, name)


def test_kernel_rates_are_the_files() -> None:
    machine = machine_of("edge-gpu-ndp")
    gpu, ndp = machine.devices[machine.index["gpu"]], machine.devices[machine.index["ndp0"]]
    assert gpu.kernels["expert"] == Kernel(5 * US, 960 * 10**9, 113 * 10**12, 0)
    assert ndp.kernels == {"expert": Kernel(1 * US, 102_400_000_000, 512 * 10**9, 0)}
    assert ndp.kernels["expert"].ps(352_321_536, 352_321_536) == 1 * US + 3_440_640_000


def test_a_count_makes_numbered_devices_and_none_makes_one() -> None:
    machine = machine_of("edge-gpu-ndp", options={"units": 2})
    assert [device.name for device in machine.devices] == ["gpu", "root", "ndp0", "ndp1"]
    assert machine.homes == (0,)
    assert machine.stores == machine.units == (2, 3)
    assert machine.quantum_bytes == 1 << 20


def test_transfers_share_the_gpus_port_and_not_the_units_channels() -> None:
    machine = machine_of("edge-gpu-ndp")
    first, second = (machine.transfer(machine.index[f"ndp{i}"], 0, 64 * 10**9) for i in (0, 1))
    shared = set(first.holds) & set(second.holds)
    assert [machine.lanes[lane].name for lane in shared] == ["pcie:root>gpu"]
    assert first.holds[next(iter(shared))] == 10**12
    assert first.length_ps == 2_500_000_000_000 + 1 * US + US // 10


def test_half_duplex_directions_share_a_lane_and_full_duplex_ones_do_not() -> None:
    machine = machine_of("edge-gpu-ndp")
    lanes = {link.name: machine.lanes[link.lane].name for link in machine.links}
    assert lanes["channel:root>ndp0"] == lanes["channel:ndp0>root"] == "channel:root-ndp0"
    assert lanes["pcie:gpu>root"] != lanes["pcie:root>gpu"]


def test_dimms_reach_each_other_in_one_hop() -> None:
    machine = machine_of("edge-gpu-ndp", options={"units": 6})
    units = machine.units
    assert len(units) == 6
    assert all(len(machine.routes[a, b]) == 1 for a in units for b in units if a != b)
    assert sum(link.name.startswith("dimm:") for link in machine.links) == 30


def test_cxl_reads_and_writes_differ() -> None:
    machine = machine_of("cxl-ndp")
    links = {link.name: link for link in machine.links}
    assert links["port:gpu>switch"].bytes_per_s == 28 * 10**9
    assert links["port:switch>gpu"].bytes_per_s == 24 * 10**9
    assert links["unit:switch>ndp0"].latency_ps == 150_000
    assert links["unit:ndp0>switch"].latency_ps == 250_000


@pytest.mark.parametrize("side", [2, 3, 4])
def test_mesh_has_its_links_and_ddr_at_the_corners(side: int) -> None:
    machine = machine_of(f"chiplet-{side}x{side}", "int8")
    assert sum(link.name.startswith("d2d:") for link in machine.links) == 4 * side * (side - 1)
    corners = [0, side - 1, side * (side - 1), side * side - 1]
    assert [link.name for link in machine.links if link.name.startswith("channel:ddr")] == [
        f"channel:ddr{i}>chiplet{corner}" for i, corner in enumerate(corners)]
    assert all(lane.in_order for lane in machine.lanes if lane.name.startswith("channel"))
    assert len(machine.homes) == side * side
    assert [machine.devices[store].kind for store in machine.stores] == ["memory"] * 4
    assert not machine.devices[machine.stores[0]].computes


@pytest.mark.parametrize("side", [2, 3, 4])
def test_routes_on_a_mesh_go_along_x_first(side: int) -> None:
    machine = machine_of(f"chiplet-{side}x{side}", "int8")
    for source in range(side * side):
        for target in range(side * side):
            (y, x), (ty, tx) = divmod(source, side), divmod(target, side)
            way = []
            while x != tx:
                x += 1 if tx > x else -1
                way.append(y * side + x)
            while y != ty:
                y += 1 if ty > y else -1
                way.append(y * side + x)
            assert [link.target for link in machine.routes[source, target]] == way


def test_eager_engine_has_issuer_stream_and_copy_stream() -> None:
    machine = machine_of("h200-host")
    gpu, cpu = machine.devices[machine.index["gpu"]], machine.devices[machine.index["cpu"]]
    names = [machine.lanes[lane].name for lane in (*gpu.lanes, *gpu.copy_lanes, *cpu.lanes)]
    assert names == ["gpu.stream", "gpu.sm", "gpu.copy_stream", "cpu.worker", "cpu.cores", "host"]
    assert [machine.lanes[lane].in_order for lane in (*gpu.lanes, *gpu.copy_lanes)] == [True, False, True]
    assert gpu.issuer is not None
    host = machine.lanes[gpu.issuer.lane]
    assert (host.name, host.in_order, gpu.issuer.sync_ps) == ("host", True, 11_400_000)
    assert gpu.kernels["expert"].issue_ps == (66 + 35) * US  # the kernel, and the engine's own code around it
    assert gpu.kernels["copy"].issue_ps == 16_300_000
    assert cpu.kernels["expert"].overhead_ps == 147 * US * 111 // 100  # slower in the engine than alone
    assert cpu.issuer is None
    held = machine.transfer(machine.index["cpu"], machine.index["gpu"], 541 * 10**8).holds
    assert {machine.lanes[lane].name: ps for lane, ps in held.items()} == {
        "pcie:cpu>gpu": 10**12, "gpu.copy_stream": 10**12}


def test_a_missing_peak_falls_back_to_the_same_width_or_wider_and_says_so() -> None:
    hardware = load_hardware("edge-gpu-ndp")
    assert fallbacks(hardware, "bf16") == ["ndp has no bf16 peak and computes in fp16"]
    assert fallbacks(hardware, "fp8") == ["ndp has no fp8 peak and computes in fp16"]
    assert build_machine(hardware, {}, "fp8", "m").devices[0].kernels["expert"].flops_per_s == 225 * 10**12
    with pytest.raises(ConfigError, match="chiplet computes int8 only, and the precision asks for bf16"):
        machine_of("chiplet-2x2", "bf16")


def test_fractions_scale_the_devices_rates() -> None:
    machine = machine_of("template")
    assert machine.devices[0].kernels["head"].bytes_per_s == 900 * 10**9
    assert machine.devices[0].kernels["expert"].bytes_per_s == 1000 * 10**9
    assert machine.devices[0].kernels["head"].flops_per_s == 100 * 10**12


def test_a_kernels_own_peak_goes_before_the_devices() -> None:
    data = read_yaml(CONFIGS / "hardware" / "template.yaml")
    gpu = data["devices"]["gpu"]
    half = {"value": "0.5", "source": "a sheet", "kind": "data_sheet"}
    gpu["kernels"]["norm"] = {"peak": {"bf16": {**half, "value": "3 TFLOP/s"}}}
    gpu["kernels"]["head"] = {"peak_fraction": half}
    gpu["runs"].remove("norm")
    gpu["lanes"] = ["stream", {"name": "sm", "servers": 3}]
    machine = build_machine(validate(Hardware, data, "file"), {}, "bf16", "m")
    kernels = machine.devices[0].kernels
    assert [kernels[f].flops_per_s for f in ("norm", "head", "expert")] == [3 * 10**12, 50 * 10**12, 100 * 10**12]
    assert [machine.lanes[lane].servers for lane in machine.devices[0].lanes] == [1, 3]


def test_pools_are_those_of_each_device() -> None:
    machine = machine_of("chiplet-2x2", "int8")
    assert [(pool.name, pool.capacity) for pool in machine.pools[:3]] == [
        ("chiplet0.expert_slots", 12), ("chiplet0.token_slots", 64), ("chiplet1.expert_slots", 12)]
    assert len(machine.pools) == 8


@pytest.mark.parametrize(("options", "told"), [
    ({"units": 1}, "option units is 1; it goes from 2 to 6"),
    ({"units": 7}, "option units is 7; it goes from 2 to 6"),
    ({"unit": 3}, "unknown option 'unit'; did you mean 'units'"),
])
def test_options_are_checked(options: dict[str, int], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_options(load_hardware("edge-gpu-ndp"), options, "edge-gpu-ndp")
    assert told in str(caught.value)


def rebuilt(name: str, **changes: object) -> Hardware:
    return load_hardware(name).model_copy(update=changes)


def test_a_store_that_no_link_reaches_is_refused() -> None:
    with pytest.raises(ConfigError, match="m: no links lead from gpu to unit0"):
        build_machine(rebuilt("template", links=()), {}, "bf16", "m")


def test_a_mesh_must_have_a_chiplet_in_every_place() -> None:
    hardware = load_hardware("chiplet-2x2")
    mesh = hardware.links[0].model_copy(update={"cols": 3})
    with pytest.raises(ConfigError, match="a mesh of 2 x 3 has 6 places and chiplet has 4 devices"):
        build_machine(hardware.model_copy(update={"links": (mesh, *hardware.links[1:])}), {}, "int8", "m")


def test_one_to_one_needs_equal_counts() -> None:
    hardware = load_hardware("template")
    pairs = hardware.links[0].model_copy(update={"pattern": "pairs"})
    with pytest.raises(ConfigError, match="1 of gpu cannot be joined one to one with 4"):
        build_machine(hardware.model_copy(update={"links": (pairs,)}), {}, "bf16", "m")


def test_a_bus_has_one_lane_a_direction() -> None:
    hardware = load_hardware("template")
    bus = hardware.links[0].model_copy(update={"bus": True})
    machine = build_machine(hardware.model_copy(update={"links": (bus,)}), {}, "bf16", "m")
    assert {machine.lanes[link.lane].name for link in machine.links} == {"link.out", "link.back"}


def test_two_devices_of_one_name_are_refused() -> None:
    hardware = load_hardware("template")
    twice = {**hardware.devices, "unit0": hardware.devices["gpu"]}
    with pytest.raises(ConfigError, match="two devices are named 'unit0'"):
        device_names(hardware.model_copy(update={"devices": twice}), {"units": 2})


def test_a_node_has_its_own_gpus_and_host() -> None:
    machine = machine_of("v100-node", "fp16", options={"nodes": 2})
    names = [device.name for device in machine.devices]
    assert names == [*(f"gpu{i}" for i in range(16)), "nvlink0", "nvlink1", "host0", "host1", "fabric"]
    assert machine.homes == tuple(range(16))

    def way(source: str, target: str) -> list[str]:
        return [link.name for link in machine.routes[names.index(source), names.index(target)]]

    assert way("gpu0", "gpu7") == ["nvlink:gpu0>nvlink0", "nvlink:nvlink0>gpu7"]
    assert way("host1", "gpu8") == ["pcie:host1>gpu8"]
    assert way("gpu7", "gpu8") == ["pcie:gpu7>host0", "infiniband:host0>fabric", "infiniband:fabric>host1",
                                   "pcie:host1>gpu8"]
