"""The result of a run: everything it found, under one digest, with what depends on the host apart."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from pydantic import JsonValue, PrivateAttr, SerializerFunctionWrapHandler, ValidationError, model_serializer

from cluster.observe import schema
from cluster.observe.digest import canonical, indented, sha256
from cluster.observe.files import text_writers, write_whole
from cluster.observe.flight import Flight
from cluster.observe.layers import LAYERS_FILE, Layers, layers_of
from cluster.observe.store import Store, folder_of
from cluster.observe.tidy import rows
from cluster.observe.timeline import TIMELINE_FILE, Extent, Written, write_timeline
from emulation.errors import InputError
from emulation.extras import require
from emulation.reading import parse_json, read_bytes

if TYPE_CHECKING:
    import pandas
    from rich.console import Group

RESULT_FILE = "result.json"
REPORT_FILE = "report.html"
LARGEST_BYTES = 1 << 30


class Result(schema.Part):
    """What a run leaves. `digest` covers all of it but `host`.

    exact: the policy serves the routing as routed. hashes: SHA-256 of machine, model, budgets, routing and tokens,
    spans, and of the inputs that the run names. makespan_ps: when the last step ended; horizon_ps: the last operation.
    output_tokens_per_s: tokens emitted over the makespan. ttft, tpot, itl: None where no request has one. serving:
    None of static batches. energy: None where the machine's file says nothing of it, which is not zero; no_energy_data:
    the devices of which it says nothing. faults: None of a run without any. spreads:
    steps' own times (step), gaps between tokens (itl) and times per output token (tpot).
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
    requests: schema.Requests
    serving: schema.Serving | None
    prefetch: schema.Prefetch
    traffic: tuple[schema.Traffic, ...]
    skew: schema.Skew
    lanes: tuple[schema.LaneUse, ...]
    devices: tuple[schema.DeviceUse, ...]
    memory: tuple[schema.Memory, ...]
    bound: schema.Bound | None
    energy: schema.Energy | None
    no_energy_data: tuple[str, ...]
    text: tuple[schema.Answer, ...] | None
    faults: tuple[schema.FaultEffect, ...] | None = None
    load: schema.Load
    series: schema.Series
    spreads: dict[str, schema.Spread]
    host: schema.Host

    _flight: Flight | None = PrivateAttr(default=None)
    _layers: Layers | None = PrivateAttr(default=None)

    @model_serializer(mode="wrap")
    def _without_what_did_not_happen(self, write: SerializerFunctionWrapHandler) -> dict[str, object]:
        """A run without faults is written as it was before there were any, under the same digest."""
        told: dict[str, object] = write(self)
        if told.get("faults", ()) is None:
            del told["faults"]
        return told

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Result) and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of everything but `host`."""
        return sha256(canonical(self.model_dump(mode="json", exclude={"host"})))

    def layers(self) -> Layers | None:
        """Layers that are worth drawing, of a run that this process timed; None of others."""
        if self._layers is None and self._flight is not None:
            self._layers = layers_of(self._flight, self.digest)
        return self._layers

    def to_json(self) -> str:
        """The text of result.json: sorted keys, exact integers, floats as Python's repr, and the digest."""
        return indented({**self.model_dump(mode="json"), "digest": self.digest}) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "the result") -> Self:
        """A result from its text; refuses another schema, a missing or unknown part, and a wrong digest."""
        data = parse_json(text, where)
        try:
            if not isinstance(data, dict) or "schema_version" not in data:
                raise InputError(f"{where} is no result of a run: it has no schema_version")
            if data["schema_version"] != schema.SCHEMA_VERSION:
                raise InputError(f"{where} has schema version {data['schema_version']}; this moelab reads "
                                 f"{schema.SCHEMA_VERSION}: run it again")
            digest = data.pop("digest", None)
            result = cls.model_validate_json(json.dumps(data))
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
        """The result in a file, or in the folder of a run, which may be a URL."""
        folder = folder_of(path)
        if isinstance(folder, Store):
            data = folder.read(RESULT_FILE)
            if data is None:
                raise InputError(f"there is no {RESULT_FILE} in {folder}")
            return cls.from_json(data.decode("utf-8", "replace"), str(folder / RESULT_FILE))
        file = Path(path) / RESULT_FILE if Path(path).is_dir() else Path(path)
        if Path(path).is_dir() and not file.exists() and (several := sorted(Path(path).glob(f"*/{RESULT_FILE}"))):
            raise InputError(f"{path} holds the results of {len(several)} policies, and one is wanted: "
                             f"{', '.join(str(one.parent) for one in several[:8])}")
        return cls.from_json(read_bytes(file, "result", LARGEST_BYTES), str(file))

    def write(self, folder: str | Path | Store, extent: Extent | None = None,
              texts: Mapping[str, str] | None = None) -> Written | None:
        """Write result.json, and timeline and layers of a run that this process timed; all whole, or none at all.

        texts: further files that belong to it, by name. Returns what of the run the timeline holds; None where there is
        none to write (a result that was read).
        """
        written: list[Written] = []
        writers: dict[str, Callable[[IO[bytes]], object]] = {}
        if (flight := self._flight) is not None:
            writers[TIMELINE_FILE] = lambda file: written.append(write_timeline(flight, file, extent))
        if (layers := self.layers()) is not None:
            writers[LAYERS_FILE] = lambda file: file.write(layers.to_json().encode("utf-8"))
        writers |= text_writers(texts or {})
        writers[RESULT_FILE] = lambda file: file.write(self.to_json().encode("utf-8"))
        write_whole(folder_of(folder), writers)
        return written[0] if written else None

    def to_pandas(self) -> "pandas.DataFrame":
        """A tidy frame, one figure a row: part, name, figure, unit, value."""
        require("to_pandas", "tables")
        import pandas

        return pandas.DataFrame(rows(self), columns=["part", "name", "figure", "unit", "value"])

    def to_html(self) -> str:
        """The run as one page to look at, complete in itself (docs/report.md)."""
        from cluster.observe.report.gantt import SCRIPT, pictures
        from cluster.observe.report.report import report

        drawn = pictures({self.policy: self.layers()})
        return report({self.policy: self}, drawn, (SCRIPT,) if drawn else ())

    def table(self) -> "Group":
        """What the run found, as tables for a terminal."""
        from cluster.observe.table import tables

        return tables(self)
