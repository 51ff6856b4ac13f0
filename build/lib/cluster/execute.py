"""`execute`: the real model answers, its experts computed by the devices, and every layer is timed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actors.messages import Work
from cluster.experts import ExpertWork
from cluster.resolve import Setup
from cluster.safe import Answered, Safe
from cluster.session import Session, merge, messages
from cluster.wall.stream import Made, Spelling
from emulation.errors import InputError
from emulation.trace import NO_EXPERT, StepRouting
from emulation.view import PREFILL, Routing, Step
from moe.checkpoint import Checkpoint
from moe.determinism import pin
from moe.generate import OnLogits, Sampling, generate
from moe.shapes import read_config
from moe.shell import load_shell
from moe.translate import translate

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Executor(ExpertWork):
    """Answers static batches of prompts, step by step."""

    def __init__(self, session: Session, model: "PreTrainedModel", forecast: str, spelling: Spelling,
                 on_logits: OnLogits | None = None) -> None:
        """on_logits(sequence, logits) hears what each new token of the run is chosen by."""
        super().__init__(session, model, forecast)
        self.session: Session = session
        self._spelling, self._on_logits = spelling, on_logits
        self._homes = np.array(session.scheduler.setting.machine.homes, np.int64)
        self._total = 0
        self._made: list[Made] = []
        self._answered: Answered | None = None

    def answer(self, prompts: Sequence[Sequence[int]], limits: Sequence[int], *, eos: Sequence[int] = (),
               sampling: Sampling | None = None,
               forced: Sequence[Sequence[int]] | None = None) -> list[list[int]]:
        """Prefill and decode one batch of prompts; returns the new tokens of each. Call it batch after batch."""
        record = self.session.record
        first_step, first_sequence = len(record.steps), len(record.prompts)
        encodes = self.hook.family.stacks
        self._total = first_step + max(limits) + encodes
        asked = np.array([len(prompt) for prompt in prompts], np.int64)

        def on_step(number: int, phase: int, rows: list[tuple[int, int]]) -> None:
            self._close()
            sequence, position = np.array(rows, np.int64).T
            last = np.r_[sequence[1:] != sequence[:-1], True]
            encoder, source = encodes and phase == PREFILL, asked[sequence] if encodes else None
            sequence = sequence + first_sequence
            self.step = Step(first_step + number, sequence, position, np.full(len(rows), phase, np.int64),
                             self._homes[sequence % len(self._homes)], last & (not encoder), encoder=encoder,
                             source=source)
            self.session.begin(self.step)
            if self._answered is not None:
                self._answered.steps.append((self.step, []))

        def on_token(sequence: int, token: int) -> None:
            sequence += first_sequence
            self._made.append(Made(sequence, token, self._spelling.add(sequence, token)))

        def on_logits(sequence: int, logits: NDArray[np.float64]) -> None:
            assert self._on_logits is not None
            self._on_logits(sequence + first_sequence, logits)

        with self.hook:
            answer = (translate if encodes else generate)(
                self.hook.model, prompts, limits, hook=self.hook, eos=eos, sampling=sampling, forced=forced,
                on_step=on_step, on_token=on_token if self.session.conductor is not None else None,
                on_logits=None if self._on_logits is None else on_logits)
        self._close()
        made = [list(tokens) for tokens in answer.tokens]
        record.prompts += [list(prompt) for prompt in prompts]
        record.answers += made
        if self._answered is not None:
            self._answered.tokens, self._answered = made, None
        return made

    def tell_again(self, prompts: Sequence[Sequence[int]], limits: Sequence[int], kept: Answered) -> list[list[int]]:
        """Time a batch that was answered before, by its record; the devices' shards move as they did."""
        session, record = self.session, self.session.record
        assert session.transport is not None
        scheduler, batch = session.scheduler, dict[int, Work]()
        self._total = len(record.steps) + max(limits) + self.hook.family.stacks
        for step, layers in kept.steps:
            self.step = step
            session.begin(step)
            batch.clear()
            for moe, (routing, guess) in zip(scheduler.setting.model.moe_stack(step.encoder), layers, strict=True):
                decision = session.decide(step, moe, routing, guess)
                self.note(routing, guess)
                merge(batch, messages(decision, session.moe_of, scheduler.ledger.start.parts, None)[0])
            session.transport.exchange(batch)
            self._close()
        record.prompts += [list(prompt) for prompt in prompts]
        record.answers += kept.tokens
        return kept.tokens

    def keep(self) -> Answered:
        """Note what the next batch meets, so that it can be told again."""
        self._answered = Answered()
        return self._answered

    def note(self, routing: Routing, guess: Routing | None) -> None:
        super().note(routing, guess)
        if self._answered is not None:
            self._answered.steps[-1][1].append((routing, guess))

    def _close(self) -> None:
        """End the step that was under way, if there was one, and note its routing."""
        if self.step is None:
            return
        made, self._made = self._made, []
        self.session.end(self._total, made)
        model = self.session.scheduler.setting.model
        shape = len(self.step), len(model.moe_layers), model.top_k
        experts, weights = np.full(shape, NO_EXPERT, np.uint16), np.zeros(shape, np.float32)
        guesses = np.full(shape, NO_EXPERT, np.uint16)
        passed = model.moe_stack(self.step.encoder)
        for moe, (routed, weight, guess) in zip(passed, self.layers, strict=True):
            experts[:, moe], weights[:, moe] = routed, weight
            if guess is not None and moe + 1 in passed:
                guesses[:, moe + 1] = guess
        self.session.record.steps.append(self.step)
        self.session.record.routed.append(StepRouting(experts, weights, guesses))
        self.session.progress.update(self.step.number + 1, self._total, f"step {self.step.number}")
        self.step, self.layers = None, []


def answer_all(setup: Setup, session: Session, on_logits: OnLogits | None = None,
               safe: Safe | None = None) -> None:
    """Every prompt of the workload, batch by batch, to the run's limit of steps; pins the arithmetic first.

    A batch that is in the safe is not answered again; any other but the last is put there."""
    from transformers import AutoTokenizer

    pin()
    assert setup.checkpoint is not None
    assert session.transport is not None
    work = setup.config.workload
    tokenizer: Any = AutoTokenizer.from_pretrained(str(setup.checkpoint), local_files_only=True)
    prompts, answers = prompts_of(setup, tokenizer), answers_of(setup, tokenizer)
    model = load_shell(Checkpoint(setup.checkpoint))
    executor = Executor(session, model, setup.config.forecast.name, Spelling(tokenizer.decode), on_logits)
    session.transport.wait()
    session.open()
    for at in range(0, len(prompts), work.batch):
        batch, most = prompts[at:at + work.batch], work.output_tokens or 1
        if setup.config.limits.steps is not None:
            most = min(most, setup.config.limits.steps - len(session.record.steps))
        if most < 1:
            break
        forced = None if answers is None else [answer[:most] for answer in answers[at:at + work.batch]]
        key, limits = f"batch {at}", [most] * len(batch)
        if safe is not None and (kept := safe.get(key)) is not None:
            made = executor.tell_again(batch, limits, kept)
        else:
            noted = executor.keep() if safe is not None else None
            made = executor.answer(batch, limits, eos=ends(model), sampling=sampling_of(setup, at), forced=forced)
            if safe is not None and at + work.batch < len(prompts):
                safe.put(key, noted)
        session.record.texts += [tokenizer.decode(tokens) for tokens in made]
    session.scheduler.finish()


def sampling_of(setup: Setup, at: int) -> Sampling | None:
    """How the answers of the batch that begins with prompt `at` are drawn; None for the likeliest tokens."""
    work = setup.config.workload
    return Sampling(setup.config.seed, work.temperature, at) if work.temperature else None


def prompts_of(setup: Setup, tokenizer: Any) -> list[list[int]]:
    """The workload's prompts as tokens; refuses one that does not fit the model's context with its answer."""
    work = setup.config.workload
    assert setup.checkpoint is not None
    prompts = [tokenizer(text, verbose=False)["input_ids"][:work.prompt_tokens] for text in texts_of(setup)]
    context, more = read_config(setup.checkpoint).get("max_position_embeddings"), work.output_tokens or 1
    for i, prompt in enumerate(prompts):
        if context is not None and len(prompt) + more > context:
            raise InputError(f"prompt {i} has {len(prompt)} tokens and is to get {more} more, and the context of "
                             f"{setup.model.name} holds {context}: set workload.prompt_tokens to {context - more} or "
                             "less" if more < context else f"workload.output_tokens is {more}, and the context of "
                             f"{setup.model.name} holds {context} tokens with the prompt")
    return prompts


def answers_of(setup: Setup, tokenizer: Any) -> list[list[int]] | None:
    """The forced answers of a workload, behind the prompts in its texts; refuses a text that is too short for both."""
    work = setup.config.workload
    if not work.forced:
        return None
    assert work.prompt_tokens is not None
    assert work.output_tokens is not None
    begin, end = work.prompt_tokens, work.prompt_tokens + work.output_tokens
    answers = [tokenizer(text, verbose=False)["input_ids"][begin:end] for text in texts_of(setup)]
    for i, answer in enumerate(answers):
        if len(answer) < end - begin:
            raise InputError(f"text {i} is too short to be forced: prompt_tokens and output_tokens together are {end}, "
                             f"and it has {begin + len(answer)} tokens" if answer else
                             f"text {i} has no token behind its first {begin}: there is no answer to force")
    return answers


def texts_of(setup: Setup) -> list[str]:
    """The prompts of a workload, cut or repeated to the number of requests that it asks for."""
    work = setup.config.workload
    texts = list(work.texts)
    if setup.prompts is not None:
        try:
            lines = setup.prompts.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise InputError(f"prompts {setup.prompts} cannot be read: {reason}") from None
        texts = [line for line in lines if line.strip()]
        if not texts:
            raise InputError(f"prompts {setup.prompts} holds no line of text")
    count = work.requests or len(texts)
    return [texts[i % len(texts)] for i in range(count)]


def ends(model: "PreTrainedModel") -> list[int]:
    """Tokens that end an answer."""
    named = model.config.eos_token_id
    return [] if named is None else [named] if isinstance(named, int) else list(named)
