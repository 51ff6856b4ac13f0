"""The result of a run: everything it found, under one digest, with what depends on the host apart."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import JsonValue, PrivateAttr, ValidationError

from actors.scheduler import Scheduler
from cluster.observe import figures, schema
from cluster.observe.attribution import Walker
from cluster.observe.digest import array_bytes, canonical, sha256, value_digest
from cluster.observe.flight import Flight, read_flight
from cluster.observe.journal import Journal, Request
from emulation.errors import InputError

RESULT_FILE = "result.json"


class Result(schema.Part):
    """What a run leaves. `digest` covers all of it but `host`.

    exact: the policy serves the routing as routed. hashes: SHA-256 of machine, model, budgets, routing and tokens,
    spans, and of the inputs that the run names. makespan_ps: when the last step ended; horizon_ps: the last operation.
    output_tokens_per_s: tokens emitted over the makespan. ttft, tpot, itl: None where no sequence has one.
    """

    schema_version: int = schema.SCHEMA_VERSION
    machine: str
    model: str
    policy: str
    exact: bool
    config: dict[str, JsonValue]
    provenance: tuple[schema.Constant, ...]
    confidence: schema.Confidence
    approximations: tuple[str, ...]
    hashes: dict[str, str]
    makespan_ps: int
    horizon_ps: int
    emitted_tokens: int
    output_tokens_per_s: float | None
    ttft: schema.Quantiles | None
    tpot: schema.Quantiles | None
    itl: schema.Quantiles | None
    phases: dict[str, schema.Phase]
    sequences: tuple[schema.Sequence, ...]
    prefetch: schema.Prefetch
    traffic: tuple[schema.Traffic, ...]
    skew: schema.Skew
    lanes: tuple[schema.LaneUse, ...]
    devices: tuple[schema.DeviceUse, ...]
    memory: tuple[schema.Memory, ...]
    bound: schema.Bound | None
    text: tuple[schema.Answer, ...] | None
    host: schema.Host

    _flight: Flight | None = PrivateAttr(default=None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Result) and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of everything but `host`."""
        return sha256(canonical(self.model_dump(mode="json", exclude={"host"})))

    def to_json(self) -> str:
        """The text of result.json: sorted keys, exact integers, floats as Python's repr, and the digest."""
        data = {**self.model_dump(mode="json"), "digest": self.digest}
        return json.dumps(data, sort_keys=True, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "the result") -> Self:
        """A result from its text; refuses another schema, a missing or unknown part, and a wrong digest."""
        try:
            data = json.loads(text)
            if not isinstance(data, dict) or "schema_version" not in data:
                raise InputError(f"{where} is no result of a run: it has no schema_version")
            if data["schema_version"] != schema.SCHEMA_VERSION:
                raise InputError(f"{where} has schema version {data['schema_version']}; this moelab reads "
                                 f"{schema.SCHEMA_VERSION}: run it again")
            digest = data.pop("digest", None)
            result = cls.model_validate_json(json.dumps(data))
        except json.JSONDecodeError as error:
            raise InputError(f"{where} is no JSON: {error}") from None
        except ValidationError as error:
            first = error.errors()[0]
            path = ".".join(str(part) for part in first["loc"])
            raise InputError(f"{where}: {path}: {first['msg']}") from None
        if result.digest != digest:
            raise InputError(f"{where} was changed after it was written: its digest says {digest}, its content amounts "
                             f"to {result.digest}")
        return result

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The result in a file, or in the folder of a run."""
        file = Path(path) / RESULT_FILE if Path(path).is_dir() else Path(path)
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot read the result {file}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InputError(f"the result {file} is no text in UTF-8") from None
        return cls.from_json(text, str(file))


def build_result(*, scheduler: Scheduler, journal: Journal, config: Mapping[str, Any], policy: str,
                 provenance: Sequence[Mapping[str, Any]], hashes: Mapping[str, str], requests: Sequence[Request],
                 approximations: Sequence[str] = (), bound: Mapping[str, Any] | None = None,
                 text: Sequence[Mapping[str, Any]] | None = None, host: Mapping[str, Any] | None = None) -> Result:
    """The result of a finished run.

    config: canonical and resolved, JSON values only. provenance: rows with path, value, kind, source and range.
    hashes: of inputs (trace, checkpoint). bound: lb_ps, binds and whatever else it found. text: rows with sequence,
    token_ids, text. host: keys of `schema.Host`.
    """
    setting, flight = scheduler.setting, read_flight(scheduler)
    walker = Walker(flight)
    constants = tuple(schema.Constant.model_validate(dict(row), strict=False) for row in provenance)
    served, waits = figures.sequences(scheduler, journal, requests)
    lanes, devices = figures.uses(scheduler, walker)
    makespan_ps = max((step.end_ps for step in scheduler.steps), default=0)
    emitted = sum(sequence.emitted_tokens for sequence in served)
    result = Result(
        machine=setting.machine.name, model=setting.model.name, policy=policy, exact=scheduler.policy.exact,
        config=dict(config), provenance=constants, confidence=_confidence(constants),
        approximations=tuple(approximations),
        hashes={**hashes, "machine": value_digest(setting.machine), "model": value_digest(setting.model),
                "budget": value_digest(setting.budget_bytes), "history": value_digest(setting.popularity),
                "routing": journal.digest, "spans": _spans_digest(flight)},
        makespan_ps=makespan_ps, horizon_ps=flight.horizon_ps, emitted_tokens=emitted,
        output_tokens_per_s=figures.rate(emitted, makespan_ps), ttft=waits["ttft"],
        tpot=waits["tpot"], itl=waits["itl"],
        phases=figures.phases(scheduler, journal, walker), sequences=tuple(served),
        prefetch=schema.Prefetch(**scheduler.counts.prefetch(flight.end_ps)),
        traffic=tuple(figures.traffic(scheduler)), skew=figures.skew(scheduler.counts.load), lanes=tuple(lanes),
        devices=tuple(devices), memory=tuple(figures.memory(scheduler, journal)), bound=_bound(bound, makespan_ps),
        text=None if text is None else tuple(schema.Answer.model_validate(dict(row), strict=False) for row in text),
        host=schema.Host(**(host or {})))
    result._flight = flight
    return result


def _confidence(constants: Sequence[schema.Constant]) -> schema.Confidence:
    """A chain is as strong as its weakest constants: assumed, then from papers and data sheets, then measured."""
    kinds: dict[str, int] = {}
    for constant in constants:
        kinds[constant.kind] = kinds.get(constant.kind, 0) + 1
    if not kinds:
        label = "unknown"
    elif "assumed" in kinds:
        label = "partly assumed"
    elif "paper" in kinds or "data_sheet" in kinds:
        label = "spec sheet"
    else:
        label = "measured"
    return schema.Confidence(label=label, kinds=dict(sorted(kinds.items())))


def _bound(bound: Mapping[str, Any] | None, makespan_ps: int) -> schema.Bound | None:
    if bound is None:
        return None
    detail = {key: value for key, value in bound.items() if key not in ("lb_ps", "binds")}
    lb_ps = int(bound["lb_ps"])
    return schema.Bound(lb_ps=lb_ps, binds=bound["binds"], times=makespan_ps / lb_ps if lb_ps else None, detail=detail)


def _spans_digest(flight: Flight) -> str:
    """SHA-256 of what every operation was and when it started and ended."""
    return sha256(b"".join(array_bytes(column) for column in (*flight.labels, flight.start_ps, flight.end_ps)))
