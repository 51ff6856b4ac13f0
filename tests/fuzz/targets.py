"""What is read from outside, each kind with what is right of it and how it is read."""

import io
import json
import math
import random
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cluster.build import build_machine, build_model
from cluster.config.hardware import Hardware
from cluster.config.load import load_precision, read_yaml, validate
from cluster.config.names import CONFIGS
from cluster.config.policy import PolicyFile
from cluster.config.precision import Precision
from cluster.config.reading import load_run
from cluster.config.run import RunConfig
from cluster.observe.result import Result
from cluster.resolve import resolve
from cluster.serve.setting import setup_of
from emulation.errors import ConfigError
from moe.shapes import load_shape
from schedulers.registry import load_policy
from studies.fidelity import Emulation, read_reference
from studies.reproduce.claims import Claims
from studies.sweep_rows import read_rows
from studies.sweep_study import load_study
from tests.fuzz.mutate import any_of, bytes_of, data_of, text_of
from tests.studies.small import RUN
from workloads.foreign import convert
from workloads.recorded import read_requests
from workloads.routing.fitted import read_fitted
from workloads.traces import read_trace

ROOT = Path(__file__).resolve().parent.parent.parent
SAMPLES = ROOT / "tests" / "workloads" / "samples"
REFERENCES = ROOT / "benchmarks" / "references"
CORPUS = ROOT / "tests" / "corpus"


@dataclass(frozen=True)
class Target:
    """One kind of input. file: what it is called. good: what is read as it is. read: reads a file, and uses what it
    holds far enough that a wrong value would be met. change: a case from something good."""

    file: str
    good: Callable[[], Mapping[str, bytes]]
    read: Callable[[Path], object]
    change: Callable[[random.Random, bytes], bytes]


def shipped(folder: str, *names: str, suffix: str = "yaml") -> Callable[[], dict[str, bytes]]:
    """Files that come with moelab, by name; all of a folder where none is named."""
    def read() -> dict[str, bytes]:
        found = sorted((CONFIGS / folder).glob(f"*.{suffix}"))
        return {file.stem: file.read_bytes() for file in found if not names or file.stem in names}
    return read


def config(draw: random.Random, good: bytes) -> bytes:
    text = good.decode()
    return any_of(draw, text, json.loads(text) if text.lstrip().startswith("{") else yaml.load(text, yaml.CSafeLoader))


def lines(draw: random.Random, good: bytes) -> bytes:
    """A case of a file with a JSON object a line."""
    try:
        rows = [json.loads(good)]
    except ValueError:
        rows = [json.loads(row) for row in good.splitlines() if row.strip()]
    if draw.random() < 0.5:
        i = draw.randrange(len(rows))
        rows[i] = data_of(draw, rows[i])
        return "".join(json.dumps(row, default=str) + "\n" for row in rows).encode("utf-8", "surrogatepass")
    if draw.random() < 0.5:
        return text_of(draw, good.decode()).encode("utf-8", "surrogatepass")
    return bytes_of(draw, good)


def run(path: Path) -> None:
    setup_of(load_run(path))


def hardware(path: Path) -> None:
    made = validate(Hardware, read_yaml(path), str(path))
    try:
        machine = build_machine(made, {}, "bf16", "machine")
    except ConfigError:
        machine = build_machine(made, {}, "int8", "machine")
    for store in machine.stores:
        assert machine.transfer(store, machine.homes[0], 1 << 20).length_ps >= 0


def precision(path: Path) -> None:
    assert validate(Precision, read_yaml(path), str(path)).expert_weights.bytes_each > 0


def policy(path: Path) -> None:
    made = validate(PolicyFile, read_yaml(path), str(path))
    load_policy(made.policy, made.parameters)


def workload(path: Path) -> None:
    run_file = path.with_name("run.yaml")
    run_file.write_text(f"machine: template\nmodel: olmoe-1b-7b\npolicy: on_demand\nworkload: ./{path.name}\n",
                        encoding="utf-8")
    resolve(load_run(run_file))


def study(path: Path) -> None:
    made = load_study(path)
    if math.prod(map(len, made.grid.values())) <= 50:
        made.expand()


def claims(path: Path) -> None:
    validate(Claims, read_yaml(path), str(path))


def model(path: Path) -> None:
    made = build_model(load_shape(path), load_precision("bf16"))
    assert made.expert_bytes > 0


def trace(path: Path) -> None:
    for step, routed in read_trace(path).steps():
        assert len(routed.experts) == len(step.sequence)


def requests(path: Path) -> None:
    assert len(read_requests(path).prompt_tokens)


def reference(path: Path) -> None:
    for file in REFERENCES.glob("*.npz"):
        path.with_name(file.name).symlink_to(file)
    made = read_reference(path)
    emulation = Emulation(made, "h200-host", _no_engine)
    for case in made.cases[:2]:
        emulation._trace(case.trace)


def _no_engine(*_: object) -> Any:
    raise AssertionError("nothing is emulated here")


def result(path: Path) -> None:
    assert Result.read(path).to_json()


def rows(path: Path) -> None:
    from studies.sweep_table import best

    best(read_rows(path), None, None)


def foreign(path: Path) -> None:
    convert(path, model="m", num_experts=64, batch=1, top_k=2)


def checkpoint(path: Path) -> None:
    """A folder in a zip archive, as cases are files: unpacked beside it, then each expert is read."""
    from moe.checkpoint import Checkpoint

    folder = path.with_suffix("")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    made = Checkpoint(folder)
    for layer in made.shape.moe_layers[:4]:
        for expert in range(min(made.shape.experts, 8)):
            made.slice(layer, expert, 0, made.shape.expert_ff // 2)
    for name in made.names()[:8]:
        assert made.tensor(name) is not None


def packed(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


TINY = {"model_type": "mixtral", "vocab_size": 16, "hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 3, "num_experts_per_tok": 2,
        "hidden_act": "silu", "tie_word_embeddings": False}


def tensors(names: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file of floats."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in names.items():
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + 4 * math.prod(shape)]}
        end += 4 * math.prod(shape)
    return header, bytes(end)


def whole(header: object, data: bytes) -> bytes:
    raw = json.dumps(header, default=str).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw)) + raw + data


def experts() -> dict[str, tuple[int, ...]]:
    shapes = {"w1": (6, 4), "w3": (6, 4), "w2": (4, 6)}
    return {f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}.weight": shape
            for layer in range(2) for expert in range(3) for name, shape in shapes.items()}


def checkpoints() -> dict[str, bytes]:
    header, data = tensors(experts())
    index = {"metadata": {}, "weight_map": dict.fromkeys(experts(), "model-1.safetensors")}
    settings = json.dumps(TINY).encode()
    return {"single": packed({"config.json": settings, "model.safetensors": whole(header, data)}),
            "sharded": packed({"config.json": settings, "model-1.safetensors": whole(header, data),
                               "model.safetensors.index.json": json.dumps(index).encode()})}


def changed_checkpoint(draw: random.Random, good: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    name = draw.choice(sorted(files))
    if draw.random() < 0.1:
        files[draw.choice(("pytorch_model.bin", "model.pt"))] = files.pop(name)
    elif name.endswith(".json"):
        files[name] = config(draw, files[name])
    elif draw.random() < 0.6:
        size = struct.unpack("<Q", files[name][:8])[0]
        files[name] = whole(data_of(draw, json.loads(files[name][8:8 + size])), files[name][8 + size:])
    else:
        files[name] = bytes_of(draw, files[name])
    return packed(files)


def traces() -> dict[str, bytes]:
    found = {file.stem: file.read_bytes() for file in sorted(REFERENCES.glob("trace_phi*.npz"))}
    made: dict[str, np.ndarray[Any, Any]] = {
        "experts": np.array([[[0, 1]], [[2, 3]], [[1, 3]]], np.uint16), "step": np.array([0, 0, 1], np.int32),
        "sequence": np.zeros(3, np.int32), "phase": np.array([0, 0, 1], np.uint8)}
    return {**{name: data for name, data in found.items() if name.endswith("b1")}, "small": npz(made)}


def npz(columns: Mapping[str, Any]) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, allow_pickle=True, **columns)
    return out.getvalue()


def header(shape: object, kind: str = "<i8") -> bytes:
    """An .npy whose header claims a shape that its bytes do not have."""
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(64)


CLAIMED = ("(1000000000000,)", "(-1,)", "(2**40,)", "(True,)", "('a',)", "()", "(0, 10**9, 10**9)", "(3,) * 90",
           "[" * 3000, "(99999999999999999999999999,)", "None", "__import__('os')")


def changed_trace(draw: random.Random, good: bytes) -> bytes:
    way = draw.random()
    if way < 0.35:
        return bytes_of(draw, good)
    with np.load(io.BytesIO(good)) as file:
        columns: dict[str, Any] = {name: file[name] for name in file.files}
    name = draw.choice(sorted(columns))
    column = columns[name]
    if way < 0.45:
        with zipfile.ZipFile(out := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
            for other, values in columns.items():
                np.save(buffer := io.BytesIO(), values)
                archive.writestr(f"{other}.npy", header(draw.choice(CLAIMED), draw.choice(("<i8", "|O", "<U9", "|V0")))
                                 if other == name else buffer.getvalue())
        return out.getvalue()
    action = draw.choice(("drop", "kind", "shape", "value", "objects", "more", "big"))
    if action == "drop":
        del columns[name]
    elif action == "kind":
        columns[name] = column.astype(draw.choice(("f8", "i1", "u8", "U4", "?", "c16", "M8[s]", "S3")))
    elif action == "shape":
        columns[name] = draw.choice((column[:0], column[None], column.ravel(), column[:1], column.T, np.array(7)))
    elif action == "value" and column.size and column.dtype.kind in "uif":
        wide = column.astype(np.int64)
        wide.flat[draw.randrange(wide.size)] = draw.choice((-1, 65535, 65536, 2**31, 2**62, -(2**63)))
        columns[name] = wide
    elif action == "objects":
        columns[name] = np.array([{"a": 1}, print], object)
    elif action == "more":
        columns.update({f"x{i}": np.zeros(1) for i in range(draw.choice((1, 80)))})
    else:
        columns[draw.choice(("weights", "tokens", "time", "num_experts", "layer_ids", "format_version", "model"))] = \
            draw.choice((np.array(2**70, object), np.array(np.nan), np.full(3, np.inf), np.array("x" * 99),
                         np.array(-1), np.array(2), np.zeros((3, 1, 2)), np.array([5, 5, 2**62])))
    return npz(columns)


def foreigners() -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(SAMPLES.iterdir())}


def request_lines() -> dict[str, bytes]:
    return {"drawn": b'{"arrival_s": 0.5, "prompt_tokens": 10, "output_tokens": 3}\n{"arrival_s": 1e-3, "prompt_tokens"'
                     b': 9, "output_tokens": 1, "prefix": "a", "prefix_tokens": 4}\n\n{"arrival_s": 2, "prompt_tokens":'
                     b' 12, "output_tokens": 7, "prefix": "a", "prefix_tokens": 4}\n'}


def row_lines() -> dict[str, bytes]:
    return {"rows": b'{"point": "a", "status": "ok", "output_tokens_per_s": 3.5}\n{"point": "b", "status": "failed", '
                    b'"error": "x"}\n{"point": "c", "status": "ok", "output_tokens_per_s": 4}\n'}


def results() -> dict[str, bytes]:
    from cluster.run import run as carry_out

    made = carry_out(validate(RunConfig, RUN, "small").placed("small", ROOT))
    return {"small": made.to_json().encode()}


def references() -> dict[str, bytes]:
    return {file.stem: file.read_bytes() for file in sorted(REFERENCES.glob("reference_*.json"))}


TARGETS: Mapping[str, Target] = {
    "run": Target("case.yaml", shipped("run"), run, config),
    "hardware": Target("case.yaml", shipped("hardware"), hardware, config),
    "precision": Target("case.yaml", shipped("precision"), precision, config),
    "policy": Target("case.yaml", shipped("policy"), policy, config),
    "workload": Target("case.yaml", shipped("workload", "chat_512", "serve_300", "serve_bursts"), workload, config),
    "study": Target("case.yaml", shipped("study"), study, config),
    "claims": Target("case.yaml", shipped("reproduce"), claims, config),
    "model": Target("case.json", shipped("model", suffix="json"), model, config),
    "trace": Target("case.npz", traces, trace, changed_trace),
    "requests": Target("case.jsonl", request_lines, requests, lines),
    "reference": Target("case.json", references, reference, config),
    "result": Target("case.json", results, result, config),
    "rows": Target("case.jsonl", row_lines, rows, lines),
    "fitted": Target("case.json", shipped("workload/fitted", suffix="json"), lambda path: read_fitted(path), config),
    "foreign": Target("case.json", foreigners, foreign, lines),
    "checkpoint": Target("case.zip", checkpoints, checkpoint, changed_checkpoint),
}
