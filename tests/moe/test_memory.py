"""Sixty-four units in eight processes hold a checkpoint once: proportional set size of all processes together."""

import json
import multiprocessing
import struct
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from emulation.shards import slice_bounds
from moe import determinism
from moe.checkpoint import Checkpoint
from moe.experts import ExpertSlice, partial_ffn
from moe.families import FAMILIES

UNITS, PROCESSES = 64, 8
LAYERS, EXPERTS, D, FF = 3, 48, 2048, 1216  # 1216 = 64 x 19: slices of 38 bytes a row of down
BF16_BYTES = 2
PATTERN = 1 << 24


def write_checkpoint(folder: Path) -> int:
    """A qwen3_moe checkpoint of random bf16 experts, one file a layer; its size in bytes."""
    pattern = torch.randn(PATTERN, generator=torch.Generator().manual_seed(0)).bfloat16().view(torch.uint8).numpy()
    keys, home, total = FAMILIES["qwen3_moe"].keys, {}, 0
    for layer in range(LAYERS):
        name = f"model-{layer + 1:05d}-of-{LAYERS:05d}.safetensors"
        header, at = {}, 0
        for expert in range(EXPERTS):
            for key, shape in ((keys.gate, [FF, D]), (keys.up, [FF, D]), (keys.down, [D, FF])):
                tensor, end = key.format(layer=layer, expert=expert), at + FF * D * BF16_BYTES
                header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
                home[tensor], at = name, end
        raw = json.dumps(header).encode()
        raw += b" " * (-len(raw) % 8)
        with (folder / name).open("wb") as file:
            file.write(struct.pack("<Q", len(raw)) + raw)
            for start in range(0, at, pattern.nbytes):
                file.write(pattern[: min(at - start, pattern.nbytes)])
        total += (folder / name).stat().st_size
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": home}))
    config = {
        "model_type": "qwen3_moe",
        "hidden_size": D,
        "moe_intermediate_size": FF,
        "intermediate_size": FF,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 16,
        "num_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "vocab_size": 256,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return total


def hold(folder: Path, units: list[int], pipe: Connection) -> None:
    """A device process: computes with every expert's slice of its units, keeps all slices, waits to be let go."""
    determinism.pin()
    checkpoint = Checkpoint(folder)
    token = torch.ones(1, D)
    held: list[ExpertSlice] = []
    norm = 0.0
    for unit in units:
        lo, hi = slice_bounds(FF, UNITS)[unit]
        for layer in range(LAYERS):
            for expert in range(EXPERTS):
                held.append(checkpoint.slice(layer, expert, lo, hi))
                norm += float(partial_ffn(held[-1], token).square().sum())
    pipe.send((len(held), norm))
    pipe.recv()


def pss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no Pss of process {pid}")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sixty_four_units_in_eight_processes_hold_a_checkpoint_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("proportional set sizes are read from /proc/PID/smaps_rollup, which this system lacks")
    size = write_checkpoint(tmp_path)
    assert size >= 2_000_000_000
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["moe.checkpoint"])
    pipes, workers = [], []
    for share in range(PROCESSES):
        here, there = context.Pipe()
        units = list(range(share, UNITS, PROCESSES))
        workers.append(context.Process(target=hold, args=(tmp_path, units, there)))
        workers[-1].start()
        pipes.append(here)
    answers = [pipe.recv() for pipe in pipes]
    held = sum(pss_bytes(worker.pid) for worker in workers if worker.pid)
    for pipe, worker in zip(pipes, workers, strict=True):
        pipe.send("go")
        worker.join(60)
    with capsys.disabled():
        print(
            f"\n{UNITS} units in {PROCESSES} processes hold {held / 1e9:.3f} GB (PSS) of a checkpoint of "
            f"{size / 1e9:.3f} GB: {held / size:.3f} times, {(held - size) / PROCESSES / 1e6:.0f} MB a process above it"
        )
    assert all(worker.exitcode == 0 for worker in workers)
    assert [count for count, _ in answers] == [UNITS // PROCESSES * LAYERS * EXPERTS] * PROCESSES
    assert all(norm > 0 for _, norm in answers)
    assert size <= held <= 1.3 * size
