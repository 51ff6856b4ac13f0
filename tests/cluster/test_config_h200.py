"""The H200 host's constants are what the fit to the measured tables gives."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.build import build_machine
from cluster.config.load import load_hardware
from cluster.config.names import CONFIGS


@pytest.mark.slow
def test_constants_are_the_fitted_ones(shared: Path) -> None:
    script = CONFIGS.parent / "benchmarks" / "fit_h200.py"
    done = subprocess.run([sys.executable, str(script), str(shared / "hardware")], capture_output=True, text=True,
                          timeout=120, check=True)
    fitted = {name: [float(v) for v in values.split(", ")]
              for name, values in re.findall(r"^(\w+ ?\w*) \([^)]*\): ([^;]*);", done.stdout, re.MULTILINE)}
    machine = build_machine(load_hardware("h200-host"), {}, "bf16", "h200-host")
    links = {link.name: link for link in machine.links}
    slower = float(load_hardware("h200-host").devices["cpu"].slowdown.si)  # what the engine makes of a CPU's kernels
    for device, key, factor in (("gpu", "gpu expert", 1.0), ("cpu", "cpu expert", slower)):
        kernel = machine.devices[machine.index[device]].kernels["expert"]
        overhead_s, bytes_per_s, flops_per_s = fitted[key][:3]
        assert kernel.overhead_ps / 1e12 == pytest.approx(overhead_s * factor, rel=0.01)
        assert kernel.bytes_per_s == pytest.approx(bytes_per_s / factor, rel=0.01)
        assert kernel.flops_per_s == pytest.approx(flops_per_s / factor, rel=0.01)
    assert links["pcie:cpu>gpu"].bytes_per_s == pytest.approx(fitted["h2d queued"][2], rel=0.01)  # at 9.4 MB
    assert links["pcie:gpu>cpu"].bytes_per_s == pytest.approx(fitted["d2h"][1], rel=0.01)
