"""What the embedded model answers: the text of plain transformers, whatever the policy, the batch and the machine."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

import moelab
from cluster.resolve import EMBEDDED_FOLDER
from emulation.errors import InputError
from moe.determinism import pin

TEXTS = ["def read_lines(path):\n    ", "It was", "Fellow citizens of the Senate", "a", "Wählen Sie im Menü"]
TOKENS = 8
SLOTS = {"lru", "lru_prefetch", "cpu_static", "expert_buffering"}


def run(folder: Path, settings: list[str] | None = None, **more: Any) -> moelab.Result:
    data = {"machine": "edge-gpu-ndp", "model": "embedded", "policy": "expert_parallel", "engine": "spec",
            "workload": {"work": "execute", "texts": TEXTS, "batch": 3, "output_tokens": TOKENS}, **more}
    (folder / "mine.yaml").write_text(yaml.safe_dump(data))
    return moelab.run(folder / "mine.yaml", settings or [])


def tokens(result: moelab.Result) -> list[tuple[int, ...]]:
    assert result.text is not None
    return [answer.token_ids for answer in result.text]


@cache
def transformers_answers() -> list[tuple[int, ...]]:
    """Greedy answers of transformers' own generate, left-padded in the same batches; ends as ours, at the end token."""
    pin()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(EMBEDDED_FOLDER), padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(str(EMBEDDED_FOLDER), dtype=torch.float32).eval()
    out = []
    for at in range(0, len(TEXTS), 3):
        asked = tokenizer(TEXTS[at:at + 3], return_tensors="pt", padding=True)
        asked.pop("token_type_ids", None)
        made = model.generate(**asked, max_new_tokens=TOKENS, do_sample=False)[:, asked["input_ids"].shape[1]:]
        for row in made.tolist():
            end = row.index(model.config.eos_token_id) + 1 if model.config.eos_token_id in row else len(row)
            out.append(tuple(row[:end]))
    return out


@pytest.mark.parametrize(("machine", "policy"), [
    *(("edge-gpu-ndp", name) for name in ("resident", "on_demand", "lru", "lru_prefetch", "cpu_static",
                                          "expert_parallel", "tensor_parallel")),
    ("h200-host", "cpu_static"), ("cpu-gpu-a6000", "lru_prefetch"), ("cxl-ndp", "tensor_parallel"),
    ("chiplet-2x2", "expert_parallel"), ("edge-gpu-ndp", "expert_buffering"), ("chiplet-2x2", "expert_buffering"),
    ("edge-gpu-ndp", "dynamic_gating"), ("edge-gpu-ndp", "tutel_gating"),
    ("chiplet-2x2", "fse_dp"), ("chiplet-2x2-published", "hydra"), ("chiplet-3x3", "ep_chiplet")])
def test_exact_policies_answer_as_plain_transformers(machine: str, policy: str, tmp_path: Path) -> None:
    chosen = {"name": policy, "parameters": {"slots": 3} if policy in SLOTS else
              {"micro_slices": 2} if policy == "fse_dp" else {}}
    more = {"forecast": "next_gate"} if policy == "lru_prefetch" else {}
    more |= {"precision": "int8"} if machine.startswith("chiplet") else {}
    assert tokens(run(tmp_path, machine=machine, policy=chosen, **more)) == transformers_answers()


def test_answers_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    drawn = [run(tmp_path, ["workload.temperature=0.9", f"workload.batch={batch}"]) for batch in (1, 2, 5)]
    assert tokens(drawn[0]) == tokens(drawn[1]) == tokens(drawn[2])
    assert len(set(tokens(run(tmp_path, ["workload.temperature=0.9", "workload.texts=[It was, It was, It was]"])))) == 3


def test_a_lossy_policy_answers_otherwise_and_says_how(tmp_path: Path) -> None:
    lossy = run(tmp_path, machine="h200-host", forecast="next_gate",
                policy={"name": "cpu_precalc", "parameters": {"slots": 3}})
    assert not lossy.exact
    assert sum(phase.substituted for phase in lossy.phases.values()) > 0
    assert all(phase.substituted_experts <= phase.substituted for phase in lossy.phases.values())
    assert lossy.bound is not None
    assert 0 < lossy.bound.lb_ps <= lossy.makespan_ps
    assert isinstance(lossy.bound.detail["true_routing_ps"], int)
    plain = transformers_answers()
    assert tokens(lossy) != plain
    assert sum(a[0] == b[0] for a, b in zip(tokens(lossy), plain, strict=True)) > 0


def test_static_gating_drops_what_its_capacity_leaves_out(tmp_path: Path) -> None:
    few, enough = (run(tmp_path, policy={"name": "static_gating", "parameters": {"capacity_factor": factor}})
                   for factor in ("0.1", "1"))
    assert not few.exact
    assert few.phases["prefill"].dropped > 0
    assert sum(phase.dropped for phase in enough.phases.values()) == 0
    assert tokens(enough) == transformers_answers() != tokens(few)


def test_daop_serves_predictions_and_without_them_answers_as_plain_transformers(tmp_path: Path) -> None:
    parameters = {"ratio": 0.4, "first_predicted": 1}
    lossy, whole = (run(tmp_path, machine="cpu-gpu-a6000", forecast="next_gate",
                        policy={"name": "daop", "parameters": {**parameters, "predict": predict}})
                    for predict in (True, False))
    assert (lossy.exact, whole.exact) == (False, False)
    assert tokens(whole) == transformers_answers()
    assert sum(phase.substituted + phase.dropped for phase in whole.phases.values()) == 0
    assert lossy.phases["prefill"].substituted == 0
    assert lossy.phases["prefill"].loads > 0
    decode = lossy.phases["decode"]
    assert 0 < decode.substituted < decode.decode_tokens * 6 * 2
    assert decode.loads == 0
    assert tokens(lossy) != transformers_answers()


def test_a_limit_of_steps_cuts_answers_short(tmp_path: Path) -> None:
    whole = tokens(run(tmp_path))
    assert tokens(run(tmp_path, ["limits.steps=3"])) == [answer[:3] for answer in whole[:3]]
    cut = run(tmp_path, [f"limits.steps={TOKENS + 1}"])
    assert sum(phase.steps for phase in cut.phases.values()) <= TOKENS + 1
    assert tokens(cut)[:3] == whole[:3]
    assert tokens(cut)[3:] == [answer[:1] for answer in whole[3:]]


def test_a_prompt_beyond_the_models_context_is_refused(tmp_path: Path) -> None:
    long = ["workload.texts=[" + "word " * 1100 + "]"]
    with pytest.raises(InputError, match=r"prompt 0 has \d+ tokens and is to get 8 more, and the context of embedded "
                                         r"holds 1024: set workload\.prompt_tokens to 1016 or less"):
        run(tmp_path, long)
    assert len(tokens(run(tmp_path, [*long, "workload.prompt_tokens=1016", "workload.output_tokens=1"]))[0]) == 1
    with pytest.raises(InputError, match=r"output_tokens is 1024, and the context of embedded holds 1024 tokens"):
        run(tmp_path, ["workload.output_tokens=1024"])


def test_prompts_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe")
    asked = {"work": "execute", "prompts": "p.txt", "output_tokens": 1}
    with pytest.raises(InputError, match="cannot be read: it is not UTF-8 text"):
        run(tmp_path, workload=asked)
    (tmp_path / "p.txt").write_text("one\n\ntwo\n")
    assert len(tokens(run(tmp_path, workload=asked))) == 2
