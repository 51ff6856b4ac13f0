"""The standalone recorder loses no token and takes no padding: it records what moelab itself does."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from emulation.trace import Trace
from moe.checkpoint import Checkpoint
from moe.hook import ExpertHook, LocalExperts
from moe.record import record
from moe.shell import load_shell
from workloads.traces import read_trace

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "record_routing.py"
PROMPTS = [[5, 9, 30, 41, 7, 12, 88], [64, 3], [17, 90, 33, 21]]
NEW = 6


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record_routing", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def own_record(folder: Path, prompts: list[list[int]], eos: tuple[int, ...] = ()) -> tuple[Trace, list[int]]:
    """moelab's own record, and the tokens of all answers."""
    checkpoint = Checkpoint(folder)
    with ExpertHook(load_shell(checkpoint), LocalExperts(checkpoint)) as hook:
        answer, trace = record(hook, prompts, NEW, model="tiny", num_experts=checkpoint.shape.experts, eos=eos)
    return trace, [token for row in answer.tokens for token in row]


def recorded(script: ModuleType, folder: Path, prompts: list[list[int]], out: Path, eos: list[int]) -> Trace:
    """The script's record of plain transformers, through a file."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = eos or None, 0
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with script.Recorder(model) as recorder:
        model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False)
    assert recorder.write(str(out), "tiny") == len(recorder.columns("tiny")["step"])
    return read_trace(out)


def same(one: Trace, other: Trace) -> None:
    for name in ("step", "sequence", "position", "phase", "layer_ids"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    order = [np.argsort(trace.experts, axis=2) for trace in (one, other)]
    assert np.array_equal(*(np.take_along_axis(trace.experts, o, axis=2) for trace, o in zip((one, other), order,
                                                                                            strict=True)))
    weights = [np.take_along_axis(trace.weights, o, axis=2) for trace, o in zip((one, other), order, strict=True)]
    assert np.allclose(*weights, atol=1e-5)
    assert one.num_experts == other.num_experts


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3"])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_script_records_what_moelab_records(script: ModuleType, tiny: Callable[[str], Path], tmp_path: Path,
                                                family: str, batch: int) -> None:
    """Batch 3 has prompts of 7, 2 and 4 tokens; all answer 6, of which the last is never routed."""
    prompts = PROMPTS[:batch]
    trace = recorded(script, tiny(family), prompts, tmp_path / "t.npz", [])
    assert len(trace.step) == sum(map(len, prompts)) + batch * (NEW - 1)
    same(trace, own_record(tiny(family), prompts)[0])


def test_a_sequence_that_ends_is_recorded_until_then(script: ModuleType, tiny: Callable[[str], Path],
                                                     tmp_path: Path) -> None:
    _, answers = own_record(tiny("mixtral"), PROMPTS)
    end = answers[NEW + 1]  # the second answer's second token: it ends there, and the others where they meet it
    own, _ = own_record(tiny("mixtral"), PROMPTS, (end,))
    assert len(own.step) < sum(map(len, PROMPTS)) + 3 * (NEW - 1)
    same(recorded(script, tiny("mixtral"), PROMPTS, tmp_path / "t.npz", [end]), own)


def test_each_call_begins_new_sequences(script: ModuleType, tiny: Callable[[str], Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny("mixtral")).eval()
    with script.Recorder(model) as recorder, torch.inference_mode():
        model(torch.tensor([PROMPTS[0][:3]]))
        model(torch.tensor([PROMPTS[1], PROMPTS[2][:2]]))
    columns = recorder.columns("tiny")
    assert columns["step"].tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert columns["sequence"].tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert columns["position"].tolist() == [0, 1, 2, 0, 1, 0, 1]
    assert columns["tokens"].tolist() == [5, 9, 30, 64, 3, 17, 90]


@pytest.mark.slow
def test_the_script_runs_on_the_embedded_model_from_any_folder(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("def read_lines(path):\nWhat is a prime number, and why\n")
    model = SCRIPT.parents[1] / "moe" / "embedded"
    done = subprocess.run([sys.executable, "-P", SCRIPT, model, "--prompts", "prompts.txt", "--batch", "2",
                           "--max-new-tokens", "8", "--out", "t.npz"], cwd=tmp_path, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    trace = read_trace(tmp_path / "t.npz")
    assert (trace.phase == 1).sum() == 2 * 7
    assert trace.tokens is not None
