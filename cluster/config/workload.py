"""The schema of a workload: what the model is asked, or which routing stands in for it."""

from typing import Literal

from pydantic import Field, model_validator

from cluster.config.quantities import Strict, refuse
from cluster.config.routing import Generator
from cluster.config.serving import Serving


class Workload(Strict):
    """work: execute (real weights, real text), replay (a recorded trace) or synthetic (generated routing).

    texts, prompts: the requests, here or in a file with one a line (execute). trace: a name of configs/workload/traces
    or a path (replay). generator (synthetic). batch: sequences at once. requests: how many there are, by default one
    batch (or all texts). A trace has its own of both, and of lengths. prompt_tokens: length of each prompt (execute:
    at most). output_tokens: of each request, the first at the end of prefill.
    history_tokens: tokens of other sequences that are drawn beforehand and counted, as the history that policies are
    told of (synthetic).
    context_tokens: positions that a replayed trace assumes in the caches before its first token.
    history: the part of the steps, from the first on, that is not run, but told to policies as their history (replay
    and synthetic; without it a replay's history is its whole trace).
    temperature: of the softmax that answers are drawn from, by the run's seed (execute); 0 takes the likeliest token.
    forced: each text is prompt and answer (execute): behind its first prompt_tokens the next output_tokens are fed as
    they stand, whatever the model would say (teacher forcing), so that its logits can be judged and compared.
    serving: requests that arrive over time and are batched continuously, in place of static batches (synthetic; replay,
    where each request then walks along a sequence of the trace; execute, where they are live).
    """

    work: Literal["execute", "replay", "synthetic"]
    texts: tuple[str, ...] = Field(default=(), strict=False)
    prompts: str | None = None
    trace: str | None = None
    generator: Generator | None = None
    batch: int = Field(default=1, ge=1)
    requests: int | None = Field(default=None, ge=1)
    prompt_tokens: int | None = Field(default=None, ge=1)
    output_tokens: int | None = Field(default=None, ge=1)
    context_tokens: int = Field(default=0, ge=0, le=1 << 40)
    history: float | None = Field(default=None, gt=0, lt=1)
    history_tokens: int = Field(default=0, ge=0, le=1 << 20)
    temperature: float = Field(default=0.0, ge=0)
    forced: bool = False
    serving: Serving | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Workload":
        given = {"texts": bool(self.texts), "prompts": self.prompts is not None, "trace": self.trace is not None,
                 "generator": self.generator is not None}
        wanted = {"execute": ("texts", "prompts"), "replay": ("trace",), "synthetic": ("generator",)}[self.work]
        live = self.serving is not None and self.serving.is_live
        if not any(given[name] for name in wanted) and not (live and self.work == "execute"):
            raise refuse(f"work: {self.work} needs {' or '.join(wanted)}")
        if self.texts and self.prompts:
            raise refuse("texts and prompts are both given: one of them is enough")
        if stray := [name for name, there in given.items() if there and name not in wanted]:
            raise refuse(f"work: {self.work} takes no {stray[0]}")
        if any(not text for text in self.texts):
            raise refuse("texts holds an empty prompt: a model needs at least one token to begin with")
        lengths = ("batch", "requests", "prompt_tokens", "output_tokens")
        if self.work == "replay" and (stray := [name for name in lengths if name in self.model_fields_set]):
            raise refuse(f"work: replay takes no {stray[0]}: the trace says which sequences run together and how long")
        if self.history is not None and (self.work == "execute" or self.serving is not None):
            raise refuse("history sets steps of a known routing aside: it belongs to replay and synthetic, in static "
                         "batches")
        if self.serving is not None:
            if self.work == "execute" and not live:
                raise refuse("serving belongs to synthetic and replay: execute answers its texts in static batches, or "
                             "the live requests of clients, which serving does not name")
            if self.work == "execute" and any(given.values()):
                raise refuse("execute with serving answers live requests of clients: it takes no texts and no prompts")
            if stray := [name for name in (*lengths, "context_tokens") if name in self.model_fields_set]:
                raise refuse(f"{stray[0]} belongs to static batches: serving has its own requests, prompt_tokens, "
                             "output_tokens and max_batch")
        elif self.work == "synthetic" and (self.prompt_tokens is None or self.output_tokens is None):
            raise refuse("work: synthetic needs prompt_tokens and output_tokens")
        if self.work == "execute" and self.output_tokens is None and not live:
            raise refuse("work: execute needs output_tokens")
        if self.temperature and self.work != "execute":
            raise refuse(f"temperature belongs to execute; under {self.work} no tokens are drawn")
        if self.history_tokens and self.history is not None:
            raise refuse("history and history_tokens are both given: the first sets steps aside, the second draws more")
        if self.history_tokens and self.work != "synthetic":
            raise refuse("history_tokens belongs to synthetic: a trace is its own history, and execute has none")
        if self.forced and self.work != "execute":
            raise refuse(f"forced belongs to execute; under {self.work} no tokens are fed")
        if self.forced and self.temperature:
            raise refuse("forced answers are fed as they stand, so no temperature can draw them")
        if self.forced and self.prompt_tokens is None:
            raise refuse("forced needs prompt_tokens: where in each text the answer begins")
        if self.context_tokens and self.work != "replay":
            raise refuse(f"context_tokens belongs to replay; under {self.work} the prompt fills the caches")
        return self
