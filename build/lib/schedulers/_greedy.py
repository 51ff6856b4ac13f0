"""DALI's greedy 0-1 placement (arXiv 2602.03495): which experts of a layer run on the GPU, which on the CPU."""

from collections.abc import Sequence


def greedy(gpu_ps: Sequence[int], cpu_ps: Sequence[int], unit: Sequence[int] | None = None) -> list[bool]:
    """Whether each expert goes to the GPU, to make max(T_gpu, T_cpu) small: [experts].

    gpu_ps, cpu_ps: what each takes there. Experts come in the order of the gap between the two, the widest first (ties:
    as listed), and each goes where the larger of the two sums is then smaller (ties: to the CPU, which moves nothing).
    unit: which of several CPUs an expert has, where there are several: T_cpu is the largest of their sums.
    """
    order = sorted(range(len(gpu_ps)), key=lambda i: (-abs(cpu_ps[i] - gpu_ps[i]), i))
    chosen = [False] * len(gpu_ps)
    on_gpu = 0
    on_cpu: dict[int, int] = {}
    for i in order:
        where = 0 if unit is None else unit[i]
        most = max(on_cpu.values(), default=0)
        there = on_cpu.get(where, 0) + cpu_ps[i]
        chosen[i] = max(on_gpu + gpu_ps[i], most) < max(on_gpu, most, there)
        if chosen[i]:
            on_gpu += gpu_ps[i]
        else:
            on_cpu[where] = there
    return chosen


def longest(gpu_ps: Sequence[int], cpu_ps: Sequence[int], chosen: Sequence[bool]) -> int:
    """max(T_gpu, T_cpu) of a placement on one GPU and one CPU."""
    return max(sum(t for t, there in zip(gpu_ps, chosen, strict=True) if there),
               sum(t for t, there in zip(cpu_ps, chosen, strict=True) if not there))
