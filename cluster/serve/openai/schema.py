"""What clients may send: OpenAI's completions and chat completions, with vLLM's `ignore_eos` and what load generators
add. What a machine cannot do is refused, and not passed over.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from cluster.config.quantities import refuse
from cluster.serve.contract import Ask
from emulation.errors import unknown

MOST_ANSWERS = 128
"""Answers to one request: its prompts times `n`."""
MOST_STOPS, LONGEST_STOP = 16, 256
COMPLETION_TOKENS, CHAT_TOKENS = 16, 128
"""Of an answer to which no limit is given; the first is OpenAI's."""
SEEDS = 1 << 64

NEUTRAL: dict[str, tuple[object, ...]] = {
    "top_p": (1,), "top_k": (-1, 0), "min_p": (0,), "presence_penalty": (0,), "frequency_penalty": (0,),
    "repetition_penalty": (1,), "length_penalty": (1,), "logit_bias": ({},), "logprobs": (False,), "top_logprobs": (),
    "prompt_logprobs": (), "suffix": ("",), "tools": ([],), "tool_choice": ("none", "auto"), "functions": ([],),
    "function_call": ("none", "auto"), "response_format": ({"type": "text"},), "modalities": (["text"],),
    "use_beam_search": (False,), "stop_token_ids": ([],), "include_stop_str_in_output": (False,), "priority": (0,)}
"""Keys that are read where their value asks for nothing."""
WITHOUT_EFFECT = frozenset({
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls",
    "skip_special_tokens", "spaces_between_special_tokens", "add_special_tokens", "request_id"})


def _number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _whole_text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise refuse(f"is no text: the character at {error.start} is half of a surrogate pair") from None
    return text


def _prompts(value: object) -> tuple[str | tuple[int, ...], ...]:
    """One prompt or several, each a text or a list of token ids."""
    if isinstance(value, str):
        return (_whole_text(value),)
    if not isinstance(value, list) or not value:
        raise refuse("should be a text, a list of token ids, or a list of either that is not empty")
    if all(_number(item) for item in value):
        return (_ids(value),)
    if len(value) > MOST_ANSWERS:
        raise refuse(f"holds {len(value)} prompts: {MOST_ANSWERS} at most are answered at once")
    return tuple(_whole_text(item) if isinstance(item, str) else _ids(item) for item in value)


def _ids(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or not all(_number(item) for item in value):
        raise refuse("holds what is neither a text nor a list of token ids")
    wrong = next((item for item in value if not 0 <= item < 1 << 31), None)
    if wrong is not None:
        shown = str(wrong) if abs(wrong) < 1 << 63 else "a number of many digits"
        raise refuse(f"holds {shown}, which is no token id")
    return tuple(value)


def _stops(value: object) -> tuple[str, ...]:
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise refuse("should be a text or a list of texts")
    if len(found) > MOST_STOPS or not all(1 <= len(text) <= LONGEST_STOP for text in found):
        raise refuse(f"should be {MOST_STOPS} texts at most, of 1 to {LONGEST_STOP} characters each")
    return tuple(_whole_text(text) for text in found)


def _content(value: object) -> str:
    """The text of a message, which may come in parts."""
    if isinstance(value, str):
        return _whole_text(value)
    if not isinstance(value, list):
        raise refuse("should be a text, or a list of parts of type text")
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise refuse("holds a part that is not {\"type\": \"text\", \"text\": ...}: this model reads text only")
    return _whole_text("".join(part["text"] for part in value))


Text = Annotated[str, AfterValidator(_whole_text)]
Prompts = Annotated[Any, AfterValidator(_prompts), WithJsonSchema({"anyOf": [
    {"type": "string"}, {"type": "array", "items": {"type": "integer"}}, {"type": "array", "items": {"type": "string"}},
    {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}]})]
Stops = Annotated[Any, AfterValidator(_stops), WithJsonSchema({"anyOf": [
    {"type": "string"}, {"type": "array", "items": {"type": "string"}}]})]
Content = Annotated[Any, AfterValidator(_content), WithJsonSchema({"anyOf": [
    {"type": "string"}, {"type": "array", "items": {"type": "object"}}]})]


class Body(BaseModel):
    """An object of a request: keys that are null are absent; unknown ones are refused with a suggestion."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _keys(cls, data: object) -> object:
        if not isinstance(data, Mapping):
            return data
        return {key: value for key, value in data.items() if value is not None and cls._kept(key, value)}

    @classmethod
    def _kept(cls, key: str, _value: object) -> bool:
        if key not in cls.model_fields:
            raise refuse(unknown("key", key, cls.model_fields))
        return True


class StreamOptions(Body):
    """What a stream tells beside tokens."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class Message(Body):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = ""
    name: Text | None = None


class Request(Body):
    """What both kinds of request share."""

    model: Text | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(0.0, ge=0, le=2)
    seed: int = Field(0, ge=-(1 << 63), lt=1 << 63)
    stop: Stops = Field(default=(), validate_default=False)
    n: int = Field(1, ge=1, le=MOST_ANSWERS)
    stream: bool = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False
    min_tokens: int = Field(0, ge=0)
    timeout_s: float | None = Field(None, gt=0, le=1e6)

    @classmethod
    def _kept(cls, key: str, _value: object) -> bool:
        if key in cls.model_fields:
            return True
        if key in WITHOUT_EFFECT:
            return False
        if key not in NEUTRAL:
            raise refuse(unknown("key", key, cls.model_fields))
        if not any(_value == neutral for neutral in NEUTRAL[key]):
            raise refuse(f"{key} is not offered by this machine: leave it out")
        return False

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise refuse("stream_options are read with stream: true only")
        if self.min_tokens and not self.ignore_eos:
            raise refuse("min_tokens is kept with ignore_eos: true only")
        return self

    @property
    def usage(self) -> StreamOptions:
        """What is told of usage in a stream."""
        return self.stream_options or StreamOptions()

    def limit(self) -> int:
        """The most tokens of an answer."""
        return self.max_tokens or COMPLETION_TOKENS

    def asks(self, prompts: list[tuple[int, ...]]) -> list[Ask]:
        """What the machine is asked: `n` answers to each prompt, whose seeds count on."""
        return [Ask(prompt, self.limit(), self.temperature, (self.seed + i) % SEEDS, tuple(self.stop), self.ignore_eos)
                for prompt in prompts for i in range(self.n)]


class CompletionRequest(Request):
    """POST /v1/completions."""

    prompt: Prompts
    echo: bool = False
    best_of: int | None = None

    @model_validator(mode="after")
    def _can_be(self) -> Self:
        if len(self.prompt) * self.n > MOST_ANSWERS:
            raise refuse(f"{len(self.prompt)} prompts and n: {self.n} are more than {MOST_ANSWERS} answers at once")
        if self.best_of is not None and self.best_of != self.n:
            raise refuse(f"best_of {self.best_of} should be n, {self.n}: answers are not ranked here")
        if self.echo and not all(isinstance(prompt, str) for prompt in self.prompt):
            raise refuse("echo needs prompts that are texts, and not token ids")
        return self


class ChatRequest(Request):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=4096)
    max_completion_tokens: int | None = Field(None, ge=1)

    def limit(self) -> int:
        """The newer name counts where both are given."""
        return self.max_completion_tokens or self.max_tokens or CHAT_TOKENS

    def conversation(self) -> list[dict[str, str]]:
        """The messages as the machine reads them."""
        return [{"role": message.role, "content": message.content} for message in self.messages]
