"""Routing that other tools recorded, as traces: plain arrays, HD-MoE's JSON, and what vLLM and SGLang return."""

import base64
import binascii
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulation.errors import InputError
from emulation.trace import Trace
from emulation.view import DECODE, PREFILL
from workloads.columns import checked
from workloads.traces import LARGEST_BYTES, REQUIRED, columns_of, first_line, read_trace

Array = NDArray[Any]


@dataclass(frozen=True)
class Answer:
    """What a server returned of one sequence: experts [tokens, layers, top_k], the first `prompt` tokens prefilled."""

    experts: Array
    prompt: int


@dataclass(frozen=True)
class Shape:
    """What the caller says of the model: flat ids are cut by it."""

    model: str
    num_experts: int
    top_k: int | None = None


def convert(source: Path, *, model: str, num_experts: int, batch: int, top_k: int | None = None) -> Trace:
    """A trace from another tool's file; `batch` sequences run together."""
    try:
        if source.stat().st_size > LARGEST_BYTES:
            raise InputError(f"{source} is above {LARGEST_BYTES} bytes, the most that is read")
        if source.suffix == ".npz":
            columns = columns_of(source)
            if all(name in columns for name in REQUIRED):
                return read_trace(source)
            if "experts" not in columns:
                raise InputError(f"{source} has no array 'experts' [tokens, layers, top_k]")
            experts = columns["experts"]
        elif source.suffix == ".npy":
            experts = np.load(source, allow_pickle=False)
        else:
            documents = _documents(source.read_text(encoding="utf-8"))
            answers = [answer for document in documents
                       for answer in _answers(str(source), document, Shape(model, num_experts, top_k))]
            if answers:
                return _batched(str(source), answers, Shape(model, num_experts), batch)
            rows = documents[0] if len(documents) == 1 else documents
            experts = np.array([_in_order(str(source), row, "layer") for row in _in_order(str(source), rows, "token")])
    except FileNotFoundError:
        raise InputError(f"there is no file {source}") from None
    except (ValueError, TypeError, OSError, EOFError, AttributeError, RecursionError, MemoryError) as error:
        raise InputError(f"{source} is no routing that moelab can read: {first_line(error)}") from None
    return with_steps(experts, model, num_experts, batch, str(source))


def with_steps(experts: Array, model: str, num_experts: int, batch: int, where: str = "the routing") -> Trace:
    """Plain routing [tokens, layers, top_k] as decode steps of `batch` sequences, each a run of consecutive tokens."""
    if not isinstance(experts, np.ndarray):
        raise InputError(f"{where}: 'experts' is no array of numpy's")
    tokens = len(experts) if experts.ndim else 0
    steps = tokens // batch
    if batch < 1 or steps < 1:
        raise InputError(f"{tokens} tokens do not make a decode step of {batch} sequences")
    rows = np.arange(steps * batch).reshape(batch, steps).T.ravel()
    step, sequence = np.repeat(np.arange(steps), batch), np.tile(np.arange(batch), steps)
    return checked(where, {"experts": experts[rows], "num_experts": np.array(num_experts), "model": np.array(model),
                           "step": step, "sequence": sequence, "position": step, "phase": np.full(len(step), DECODE)})


def _in_order(where: str, rows: Any, what: str) -> list[Any]:
    """The values of an object whose keys are the numbers of tokens or layers, by number; a list as it is."""
    if not isinstance(rows, dict):
        return list(rows)
    numbers = {int(key): value for key, value in rows.items() if key.isascii() and key.isdecimal()}
    first = min(numbers, default=0)
    if len(numbers) < len(rows) or sorted(numbers) != list(range(first, first + len(rows))):
        raise InputError(f"{where}: the {what}s of HD-MoE's JSON are keys that count up without a gap, and these are "
                         f"{', '.join(map(repr, list(rows)[:4]))}{', ...' if len(rows) > 4 else ''}")
    return [numbers[number] for number in sorted(numbers)]


def _documents(text: str) -> list[Any]:
    """A JSON document, or one a line."""
    try:
        whole = json.loads(text)
    except ValueError:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) < 2:
            raise
        return [json.loads(line) for line in lines]
    return whole if isinstance(whole, list) and all(isinstance(item, dict) for item in whole) else [whole]


def _answers(where: str, document: Any, shape: Shape) -> Iterator[Answer]:
    """The sequences of one response, where it is one: OpenAI's form (choices), vLLM's own (outputs), SGLang's own."""
    if not isinstance(document, dict):
        return
    if isinstance(document.get("meta_info"), dict):
        meta = document["meta_info"]
        yield _sglang(where, meta, meta, shape)
    elif isinstance(document.get("choices"), list):
        usage = document.get("usage") or {}
        for choice in document["choices"]:
            extension = document.get("sglext") or choice.get("sglext") or choice.get("sgl_ext")
            if extension:
                yield _sglang(where, extension, usage, shape)
            else:
                yield _vllm(where, document, choice, usage)
    elif isinstance(document.get("outputs"), list):
        for output in document["outputs"]:
            yield _vllm(where, document, output, {})


def _vllm(where: str, document: Mapping[str, Any], output: Mapping[str, Any], usage: Mapping[str, Any]) -> Answer:
    experts = _array(where, output.get("routed_experts"))
    head = document.get("prompt_routed_experts")
    prompt_ids = output.get("prompt_token_ids") or document.get("prompt_token_ids")
    if head is not None:
        first = _array(where, head)
        return Answer(np.concatenate([first, experts]), len(first))
    prompt = len(prompt_ids) if prompt_ids else usage.get("prompt_tokens")
    tokens = usage.get("total_tokens")
    if isinstance(tokens, int) and len(document["choices"]) == 1 and len(experts) not in (tokens - 1, tokens):
        raise InputError(f"{where}: a response routed {len(experts)} tokens and counts {tokens} (usage.total_tokens); "
                         "responses cut by routed_experts_prompt_start are not read")
    return Answer(experts, _prompt(where, prompt, len(experts)))


def _sglang(where: str, holder: Mapping[str, Any], counted: Mapping[str, Any], shape: Shape) -> Answer:
    """int32 ids behind one another, base64: of prompt_tokens + completion_tokens - 1 tokens, the last being unused."""
    prompt = counted.get("prompt_tokens")
    schema = holder.get("expert_ids_schema") or {}
    whole = holder.get("routed_experts") is not None
    parts = ("routed_experts",) if whole else ("input_expert_ids", "output_expert_ids")
    flat = np.concatenate([np.frombuffer(_bytes(where, holder.get(part), part), np.dtype("<i4")) for part in parts])
    top_k = schema.get("top_k", shape.top_k)
    tokens = int(prompt or 0) + int(counted.get("completion_tokens") or 0) - 1
    if not isinstance(top_k, int) or top_k < 1:
        raise InputError(f"{where} holds flat ids, which say nothing of their shape: give --top-k, experts per token")
    if tokens < 1 or not flat.size or flat.size % (tokens * top_k):
        raise InputError(f"{where}: {flat.size} ids are no whole layers of {tokens} tokens (prompt_tokens + "
                         f"completion_tokens - 1) with top_k {top_k}; responses cut by routed_experts_start_len "
                         "are not read")
    return Answer(flat.reshape(tokens, -1, top_k), _prompt(where, prompt, tokens))


def _prompt(where: str, prompt: object, tokens: int) -> int:
    if not isinstance(prompt, int) or not 1 <= prompt <= tokens:
        raise InputError(f"{where}: a response with {tokens} routed tokens says that {prompt!r} of them are its prompt "
                         "(usage.prompt_tokens, or prompt_token_ids)")
    return prompt


def _array(where: str, value: object) -> Array:
    """Ids [tokens, layers, top_k], from nested lists or from a base64 .npy."""
    if isinstance(value, str):
        return np.asarray(np.load(io.BytesIO(_bytes(where, value, "routed_experts")), allow_pickle=False))
    if not isinstance(value, list):
        raise InputError(f"{where}: a response has no routed_experts; was the server started to return them?")
    array = np.array(value)
    if array.ndim != 3:
        raise InputError(f"{where}: routed_experts is {list(array.shape)}; it must be [tokens, layers, top_k]")
    return array


def _bytes(where: str, value: object, name: str) -> bytes:
    if not isinstance(value, str):
        raise InputError(f"{where}: a response has no {name}; was the server started to return them?")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise InputError(f"{where}: {name} is no base64 text") from None


def _batched(where: str, answers: Sequence[Answer], shape: Shape, batch: int) -> Trace:
    """Sequences in static batches of their order: one prefill, then a decode step for each further token."""
    forms = {answer.experts.shape[1:] for answer in answers}
    if len(forms) > 1:
        raise InputError(f"{where}: responses differ in layers or top_k: {', '.join(map(str, sorted(forms)))}")
    columns: list[tuple[Array, ...]] = []
    first = 0
    for at in range(0, len(answers), batch):
        length = 0
        for sequence, answer in enumerate(answers[at:at + batch], start=at):
            position = np.arange(len(answer.experts))
            local = np.maximum(position - answer.prompt + 1, 0)
            columns.append((first + local, np.full(len(position), sequence), position,
                            np.where(local > 0, DECODE, PREFILL)))
            length = max(length, int(local[-1]) + 1)
        first += length
    step, sequences, positions, phase = (np.concatenate(column) for column in zip(*columns, strict=True))
    rows = np.lexsort((positions, sequences, step))
    experts = np.concatenate([answer.experts for answer in answers])[rows]
    layers = _routed_layers(experts)
    return checked(where, {"experts": experts[:, layers], "num_experts": np.array(shape.num_experts),
                           "model": np.array(shape.model), "layer_ids": layers, "step": step[rows],
                           "sequence": sequences[rows], "position": positions[rows], "phase": phase[rows]})


def _routed_layers(experts: Array) -> NDArray[np.int64]:
    """The layers that route: servers fill those that do not with zeros, which no router picks twice for a token."""
    if experts.shape[2] == 1:
        return np.arange(experts.shape[1])
    return np.flatnonzero((experts != 0).any(axis=(0, 2)))
