from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REASON_UNSPECIFIED: _ClassVar[Reason]
    REASON_STOP: _ClassVar[Reason]
    REASON_LENGTH: _ClassVar[Reason]
    REASON_CANCELLED: _ClassVar[Reason]

class Clock(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CLOCK_UNSPECIFIED: _ClassVar[Clock]
    CLOCK_VIRTUAL: _ClassVar[Clock]
    CLOCK_WALL: _ClassVar[Clock]

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_UNSPECIFIED: _ClassVar[State]
    STATE_STARTING: _ClassVar[State]
    STATE_READY: _ClassVar[State]
    STATE_STOPPING: _ClassVar[State]
    STATE_FAILED: _ClassVar[State]
REASON_UNSPECIFIED: Reason
REASON_STOP: Reason
REASON_LENGTH: Reason
REASON_CANCELLED: Reason
CLOCK_UNSPECIFIED: Clock
CLOCK_VIRTUAL: Clock
CLOCK_WALL: Clock
STATE_UNSPECIFIED: State
STATE_STARTING: State
STATE_READY: State
STATE_STOPPING: State
STATE_FAILED: State

class GenerateRequest(_message.Message):
    __slots__ = ("model", "text", "token_ids", "chat", "max_tokens", "temperature", "seed", "stop", "ignore_eos")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    CHAT_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    IGNORE_EOS_FIELD_NUMBER: _ClassVar[int]
    model: str
    text: str
    token_ids: TokenIds
    chat: Chat
    max_tokens: int
    temperature: float
    seed: int
    stop: _containers.RepeatedScalarFieldContainer[str]
    ignore_eos: bool
    def __init__(self, model: _Optional[str] = ..., text: _Optional[str] = ..., token_ids: _Optional[_Union[TokenIds, _Mapping]] = ..., chat: _Optional[_Union[Chat, _Mapping]] = ..., max_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., seed: _Optional[int] = ..., stop: _Optional[_Iterable[str]] = ..., ignore_eos: _Optional[bool] = ...) -> None: ...

class TokenIds(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Chat(_message.Message):
    __slots__ = ("messages",)
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[ChatMessage]
    def __init__(self, messages: _Optional[_Iterable[_Union[ChatMessage, _Mapping]]] = ...) -> None: ...

class ChatMessage(_message.Message):
    __slots__ = ("role", "content")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    role: str
    content: str
    def __init__(self, role: _Optional[str] = ..., content: _Optional[str] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("token", "end")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    token: Token
    end: End
    def __init__(self, token: _Optional[_Union[Token, _Mapping]] = ..., end: _Optional[_Union[End, _Mapping]] = ...) -> None: ...

class Token(_message.Message):
    __slots__ = ("index", "id", "text", "emulated_ps")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    EMULATED_PS_FIELD_NUMBER: _ClassVar[int]
    index: int
    id: int
    text: str
    emulated_ps: int
    def __init__(self, index: _Optional[int] = ..., id: _Optional[int] = ..., text: _Optional[str] = ..., emulated_ps: _Optional[int] = ...) -> None: ...

class End(_message.Message):
    __slots__ = ("reason", "usage", "arrival_ps", "scheduled_ps", "first_token_ps", "end_ps", "queue_s", "ttft_s", "tpot_s", "real_tokens", "clock", "dilation")
    REASON_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    ARRIVAL_PS_FIELD_NUMBER: _ClassVar[int]
    SCHEDULED_PS_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_PS_FIELD_NUMBER: _ClassVar[int]
    END_PS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_S_FIELD_NUMBER: _ClassVar[int]
    TTFT_S_FIELD_NUMBER: _ClassVar[int]
    TPOT_S_FIELD_NUMBER: _ClassVar[int]
    REAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    DILATION_FIELD_NUMBER: _ClassVar[int]
    reason: Reason
    usage: Usage
    arrival_ps: int
    scheduled_ps: int
    first_token_ps: int
    end_ps: int
    queue_s: float
    ttft_s: float
    tpot_s: float
    real_tokens: bool
    clock: Clock
    dilation: float
    def __init__(self, reason: _Optional[_Union[Reason, str]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., arrival_ps: _Optional[int] = ..., scheduled_ps: _Optional[int] = ..., first_token_ps: _Optional[int] = ..., end_ps: _Optional[int] = ..., queue_s: _Optional[float] = ..., ttft_s: _Optional[float] = ..., tpot_s: _Optional[float] = ..., real_tokens: _Optional[bool] = ..., clock: _Optional[_Union[Clock, str]] = ..., dilation: _Optional[float] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("prompt_tokens", "output_tokens")
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    prompt_tokens: int
    output_tokens: int
    def __init__(self, prompt_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ...) -> None: ...

class RunRequest(_message.Message):
    __slots__ = ("name", "text", "settings", "compare")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    COMPARE_FIELD_NUMBER: _ClassVar[int]
    name: str
    text: str
    settings: _containers.RepeatedScalarFieldContainer[str]
    compare: bool
    def __init__(self, name: _Optional[str] = ..., text: _Optional[str] = ..., settings: _Optional[_Iterable[str]] = ..., compare: _Optional[bool] = ...) -> None: ...

class RunResponse(_message.Message):
    __slots__ = ("queued", "progress", "result")
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    queued: Queued
    progress: Progress
    result: ResultPart
    def __init__(self, queued: _Optional[_Union[Queued, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., result: _Optional[_Union[ResultPart, _Mapping]] = ...) -> None: ...

class Queued(_message.Message):
    __slots__ = ("before",)
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    before: int
    def __init__(self, before: _Optional[int] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("done", "total", "text")
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    done: int
    total: int
    text: str
    def __init__(self, done: _Optional[int] = ..., total: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class ResultPart(_message.Message):
    __slots__ = ("policy", "digest", "json", "last")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    policy: str
    digest: str
    json: str
    last: bool
    def __init__(self, policy: _Optional[str] = ..., digest: _Optional[str] = ..., json: _Optional[str] = ..., last: _Optional[bool] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("model", "real_tokens", "context_tokens", "state", "clock", "dilation", "emulated_ps", "running", "waiting", "steps", "prompt_tokens", "output_tokens", "kv_blocks", "kv_blocks_used", "faults", "runs")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    DILATION_FIELD_NUMBER: _ClassVar[int]
    EMULATED_PS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCKS_USED_FIELD_NUMBER: _ClassVar[int]
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    model: str
    real_tokens: bool
    context_tokens: int
    state: State
    clock: Clock
    dilation: float
    emulated_ps: int
    running: int
    waiting: int
    steps: int
    prompt_tokens: int
    output_tokens: int
    kv_blocks: int
    kv_blocks_used: int
    faults: _containers.RepeatedScalarFieldContainer[str]
    runs: int
    def __init__(self, model: _Optional[str] = ..., real_tokens: _Optional[bool] = ..., context_tokens: _Optional[int] = ..., state: _Optional[_Union[State, str]] = ..., clock: _Optional[_Union[Clock, str]] = ..., dilation: _Optional[float] = ..., emulated_ps: _Optional[int] = ..., running: _Optional[int] = ..., waiting: _Optional[int] = ..., steps: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., kv_blocks: _Optional[int] = ..., kv_blocks_used: _Optional[int] = ..., faults: _Optional[_Iterable[str]] = ..., runs: _Optional[int] = ...) -> None: ...
