"""Fits what a reference engine's own code costs to its step times, everything else as the hardware file has it.

    python -m benchmarks.fit_engine REFERENCE.json

Three constants, none of them by policy or by shape: what the interpreter adds to issuing an expert, how much slower
experts on the worker thread are than alone, and how long a job takes to reach it. (What it adds to a layer is measured:
copies that are a little slower look just like it in these rows.) The emulated steps are nearly linear in them: they are
emulated once at a guess and once with each constant moved, and the least sum of |relative error| is sought in between.
Rows that did not repeat count, too: what they scatter by is not the engine's.
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emulation.engine.choose import make_engine
from emulation.machine import Device, Kernel, Machine
from emulation.units import PS_PER_S
from studies.fidelity import Emulation, Reference, read_reference
from studies.fitting import least

Floats = NDArray[np.float64]
NAMES = ("interpreter of an expert, s", "slowdown of experts on the worker",
         "from a job's rows being sent to its first expert, s")
GUESS, MOVED = np.array([30e-6, 1.15, 500e-6]), np.array([10e-6, 0.2, 300e-6])


def changed(machine: Machine, constants: Floats) -> Machine:
    """A machine without these constants, with them."""
    expert_s, slower, job_s = constants.tolist()
    gpu = machine.homes[0]

    def device(number: int, one: Device) -> Device:
        kernels: dict[str, Kernel] = dict(one.kernels)
        if number == gpu:
            issue_ps = kernels["expert"].issue_ps + round(expert_s * PS_PER_S)
            kernels["expert"] = replace(kernels["expert"], issue_ps=issue_ps)
        else:
            kernels = {family: Kernel(round(k.overhead_ps * slower), round(k.bytes_per_s / slower),
                                      round(k.flops_per_s / slower), k.issue_ps) for family, k in kernels.items()}
        return replace(one, kernels=kernels)

    links = tuple(replace(link, latency_ps=round(job_s * PS_PER_S)) if link.source == gpu else link
                  for link in machine.links)
    return replace(machine, devices=tuple(device(i, each) for i, each in enumerate(machine.devices)), links=links)


def bare(machine: Machine, path: str) -> Machine:
    """The machine without the constants that its file holds already."""
    from cluster.config.load import load_hardware

    spec = load_hardware(path).devices
    slower = float(spec["cpu"].slowdown.si) if spec["cpu"].slowdown else 1.0
    own = spec["gpu"].kernels["expert"].interpreter
    return changed(machine, np.array([-float(own.si) if own else 0.0, 1 / slower, 0.0]))


def steps(reference: Reference, machine: Machine, constants: Floats) -> Floats:
    """Emulated seconds of every row."""
    emulation = Emulation(reference, reference.head.host, partial(make_engine, "compiled"))
    emulation.machine = changed(machine, constants)
    return np.array([emulation.emulate(case).step_s for case in reference.cases])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path)
    reference = read_reference(parser.parse_args().reference)
    host = reference.head.host
    machine = bare(Emulation(reference, host, partial(make_engine, "compiled")).machine, host)
    measured = np.array([row.measured_step_s or np.nan for row in reference.measured])
    base = steps(reference, machine, GUESS)
    moved = [steps(reference, machine, GUESS + np.eye(3)[i] * MOVED[i]) for i in range(3)]
    slopes = np.stack([(other - base) / by for other, by in zip(moved, MOVED.tolist(), strict=True)])
    found, _ = least(lambda constants: base + (constants - GUESS) @ slopes, measured, [GUESS, GUESS * 1.2, GUESS * 0.7])
    for name, value in zip(NAMES, found.tolist(), strict=True):
        print(f"{name}: {value:.4g}")
    error = np.abs(steps(reference, machine, found) / measured - 1)
    steady = np.array([row.steady is not False for row in reference.measured])
    print(f"|error| over {steady.sum()} steady rows: median {np.median(error[steady]):.1%}, "
          f"P90 {np.percentile(error[steady], 90):.1%}; over all {len(error)}: {np.median(error):.1%}, "
          f"{np.percentile(error, 90):.1%}")


if __name__ == "__main__":
    main()
