"""The price of a lossy policy: how far its answers are from plain transformers', on held-out text that is forced.

Both are fed the text's own next token at each step (one prefill, then decode), so their logits are compared on the
same text. Policies run for real: experts by the devices of a run, timed on its machine.
"""

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cluster.config.names import locate
from cluster.config.reading import load_workload
from cluster.config.run import RunConfig
from cluster.config.workload import Workload
from cluster.session import Progress, Silent
from emulation.errors import ConfigError, unknown

if TYPE_CHECKING:
    from cluster.resolve import Setup

Floats = NDArray[np.float64]

DOMAINS = ("code", "technical", "prose", "maths", "german", "chinese")
"""Domains of the embedded model, each with held-out text in configs/workload/heldout_DOMAIN.yaml."""
OWN = "own"
"""In place of a domain: the text of the run itself."""
MEAN = "mean"
"""In place of a domain: the mean over several, each counted alike."""


@dataclass(frozen=True)
class Score:
    """What logits are worth on a text: nats and hits are sums over `tokens` predicted tokens of `bytes` in all.

    kl_nats: the sum of KL(plain || these), nats. agreed: tokens at which both name the same likeliest one (of several,
    the one of the lowest id). largest: the largest difference of any logit.
    """

    tokens: int
    bytes: int
    nats: float
    kl_nats: float
    agreed: int
    largest: float

    @property
    def bits_per_byte(self) -> float:
        """Bits that the text takes, over its bytes."""
        return self.nats / math.log(2) / self.bytes


@dataclass(frozen=True)
class Row:
    """One policy on one domain.

    bits_per_byte, plain_bits_per_byte: of the policy and of plain transformers. top1_agreement: share of tokens. kl:
    KL(plain || policy), nats a token. prediction_by_layer: share of a MoE layer's routed experts that its gate names
    when it is shown the last MoE layer's input (None: it has no forecast, as the first). similarity_by_layer: cosine of
    a passage's expert counts in prefill and in decode. dropped, substituted: shares of the routed pairs.
    decode_tokens_per_s: on the run's machine, emulated.
    """

    policy: str
    domain: str
    exact: bool
    tokens: int
    bytes: int
    bits_per_byte: float
    plain_bits_per_byte: float
    top1_agreement: float
    kl: float
    largest_logit_difference: float
    prediction: float | None
    prediction_by_layer: tuple[float | None, ...]
    similarity: float | None
    similarity_by_layer: tuple[float | None, ...]
    substituted: float
    dropped: float
    decode_tokens_per_s: float | None


@dataclass
class Heard:
    """Logits of every new token of a run, by sequence, [tokens, vocabulary] in the order in which they came."""

    rows: dict[int, list[NDArray[np.float32]]] = field(default_factory=dict)

    def __call__(self, sequence: int, logits: Floats) -> None:
        self.rows.setdefault(sequence, []).append(logits.astype(np.float32))

    def all(self) -> NDArray[np.float32]:
        """Those of the first sequence, then those of the next, and so on."""
        return np.concatenate([np.stack(self.rows[sequence]) for sequence in sorted(self.rows)])


def price(config: RunConfig, domains: Sequence[str] | None = None, progress: Progress | None = None, *,
          workers: int | None = None) -> list[Row]:
    """Every policy of a run on held-out text of each domain (by default of all), or on the run's OWN.

    Domains are shared out among processes (by default one a core); rows come in the order of domains, then policies.
    """
    wanted = list(domains) if domains is not None else list(DOMAINS)
    cases = [(domain, of_domain(config, domain)) for domain in wanted]
    if not cases:
        raise ConfigError("no domain is named: name some of " + ", ".join(DOMAINS))
    heard = progress or Silent()
    most = min(len(cases), workers or len(os.sched_getaffinity(0)))
    if most == 1:
        done = []
        for i, case in enumerate(cases):
            heard.update(i, len(cases), case[0])
            done.append(one_domain(*case))
        return [row for rows in done for row in rows]
    with ProcessPoolExecutor(most, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(one_domain, *case): case[0] for case in cases}
        for i, future in enumerate(as_completed(futures)):
            future.result()
            heard.update(i + 1, len(cases), futures[future])
        return [row for future in futures for row in future.result()]


def of_domain(config: RunConfig, domain: str) -> RunConfig:
    """The run with a domain's held-out text for its workload, or as it is for OWN."""
    if domain == OWN:
        return config
    if domain not in DOMAINS:
        raise ConfigError(unknown("domain", domain, (*DOMAINS, OWN)))
    name = f"heldout_{domain}"
    found = Workload.model_validate(load_workload(name, locate("workload", "workload", name).parent))
    more = {"batch": config.workload.batch, "requests": config.workload.requests}
    return config.model_copy(update={"workload": found.model_copy(update=more)}).placed(config.name, config.folder)


def one_domain(domain: str, config: RunConfig) -> list[Row]:
    """Plain transformers, then every policy of a run, on the run's text."""
    from moe.determinism import pin

    pin()
    from cluster.resolve import resolve

    setup = resolve(config.model_copy(update={"transport": "local"}).placed(config.name, config.folder))
    if setup.checkpoint is None or not setup.config.workload.forced:
        raise ConfigError(f"a price is measured on text that is forced (workload.forced), and {config.name} has none")
    plain, answers, size = plain_logits(setup)
    return list(_rows(domain, setup, plain, answers, size))


def plain_logits(setup: "Setup") -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
    """Plain transformers on the same text in the same batches: logits, the tokens that came, and their bytes."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
    from transformers.utils import logging

    from cluster.execute import answers_of, prompts_of, texts_of
    from moe.generate import generate
    from moe.handed import repaired
    from moe.translate import translate

    told: Any = logging
    told.disable_progress_bar()
    tokenizer: Any = AutoTokenizer.from_pretrained(str(setup.checkpoint), local_files_only=True)
    prompts, answers = prompts_of(setup, tokenizer), answers_of(setup, tokenizer)
    assert answers is not None
    encodes = setup.model.encoder_layers > 0
    kind: Any = AutoModelForSeq2SeqLM if encodes else AutoModelForCausalLM
    model = kind.from_pretrained(
        str(setup.checkpoint), attn_implementation="eager", experts_implementation="eager", dtype=torch.float32,
        local_files_only=True)
    heard, batch = Heard(), setup.config.workload.batch
    for at in range(0, len(prompts), batch):
        forced = answers[at:at + batch]

        def note(sequence: int, logits: Floats, first: int = at) -> None:
            heard(first + sequence, logits)

        with repaired(model):
            (translate if encodes else generate)(model, prompts[at:at + batch], [len(row) for row in forced],
                                                 forced=forced, on_logits=note)
    size = sum(_bytes(tokenizer, text, len(prompt), len(answer))
               for text, prompt, answer in zip(texts_of(setup), prompts, answers, strict=True))
    return heard.all(), np.concatenate([np.array(row, np.int64) for row in answers]), size


def _bytes(tokenizer: Any, text: str, begin: int, length: int) -> int:
    """Bytes in UTF-8 of the text that tokens [begin, begin + length) stand for."""
    at = tokenizer(text, verbose=False, return_offsets_mapping=True)["offset_mapping"]
    return len(text[at[begin][0]:at[begin + length - 1][1]].encode())


def _rows(domain: str, setup: "Setup", plain: NDArray[np.float32], answers: NDArray[np.int64],
          size: int) -> Iterator[Row]:
    from cluster.one_run import OneRun
    from cluster.run import title
    from cluster.transports.local import LocalTransport
    from workloads.statistics import forecast_hit_rate, forecast_hits, prefill_decode_similarity

    base, taken = score(plain, plain, answers, size), set[str]()
    for target in setup.policies:
        heard, named = Heard(), title(target, setup.policies, taken)
        taken.add(named)
        run = OneRun(setup, target, LocalTransport(), Silent(), on_logits=heard)
        result = run.execute()
        mine = score(plain, heard.all(), answers, size)
        trace = run.session.record.trace(setup.model.name, setup.model.experts, setup.model.moe_layers)
        hits, guessed = forecast_hits(trace)
        alike, pairs = prefill_decode_similarity(trace), trace.experts.size
        decode = result.phases.get("decode")
        yield Row(
            policy=named, domain=domain, exact=result.exact, tokens=mine.tokens, bytes=mine.bytes,
            bits_per_byte=mine.bits_per_byte, plain_bits_per_byte=base.bits_per_byte,
            top1_agreement=mine.agreed / mine.tokens, kl=mine.kl_nats / mine.tokens,
            largest_logit_difference=mine.largest,
            prediction=int(hits.sum()) / int(guessed.sum()) if guessed.any() else None,
            prediction_by_layer=_known(forecast_hit_rate(trace)),
            similarity=None if np.isnan(alike).all() else float(np.nanmean(alike)), similarity_by_layer=_known(alike),
            substituted=sum(phase.substituted for phase in result.phases.values()) / pairs,
            dropped=sum(phase.dropped for phase in result.phases.values()) / pairs,
            decode_tokens_per_s=None if decode is None else decode.tokens_per_s)


def score(plain: NDArray[np.float32], given: NDArray[np.float32], answers: NDArray[np.int64], size: int) -> Score:
    """Logits [tokens, vocabulary] beside plain ones, over the tokens that came [tokens] and their size in bytes."""
    p, q = log_softmax(plain), log_softmax(given)
    return Score(
        tokens=len(answers), bytes=size, nats=float(-q[np.arange(len(q)), answers].sum()),
        kl_nats=float((np.exp(p) * (p - q)).sum()), agreed=int((plain.argmax(1) == given.argmax(1)).sum()),
        largest=float(np.abs(plain.astype(np.float64) - given).max()))


def log_softmax(logits: NDArray[np.float32]) -> Floats:
    """Of each row, in doubles."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    result: Floats = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return result


def means(rows: Sequence[Row]) -> list[Row]:
    """A row for each policy: the mean over its domains, each counted alike; tokens and bytes are sums."""
    out = []
    for policy in dict.fromkeys(row.policy for row in rows):
        of = [row for row in rows if row.policy == policy]
        mean: dict[str, Any] = {name: _mean([getattr(row, name) for row in of]) for name in MEANT}
        layers: dict[str, Any] = {
            name: tuple(_mean(list(column)) for column in zip(*(getattr(row, name) for row in of), strict=True))
            for name in ("prediction_by_layer", "similarity_by_layer")}
        out.append(replace(of[0], domain=MEAN, tokens=sum(row.tokens for row in of), bytes=sum(row.bytes for row in of),
                           largest_logit_difference=max(row.largest_logit_difference for row in of), **mean, **layers))
    return out


MEANT = ("bits_per_byte", "plain_bits_per_byte", "top1_agreement", "kl", "prediction", "similarity", "substituted",
         "dropped", "decode_tokens_per_s")


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _known(values: Floats) -> tuple[float | None, ...]:
    return tuple(None if np.isnan(value) else float(value) for value in values)
