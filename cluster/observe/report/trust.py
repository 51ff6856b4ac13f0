"""How far to believe it: faults, approximations, every constant with its source, hashes, and how to do it again."""

import yaml

from cluster.observe.report.blocks import absent, facts, folded, note, sentences, table
from cluster.observe.report.markup import Markup, join, tag
from cluster.observe.result import Result
from cluster.observe.schema import Constant, Stretch
from cluster.observe.table import approximated, bytes_text, time_text
from emulation.units import seconds

TRUST = ("assumed", "computed", "paper", "data_sheet", "measured")
"""Kinds of constants, the least sure first."""


def faults(result: Result) -> Markup:
    """When each fault took effect, what it cost, and a decode step's mean before, during and after."""
    if not result.faults:
        return absent("There was no fault in this run.")
    rows = [(fault.what, _at(fault.took_ps), _at(fault.over_ps), bytes_text(fault.sent_bytes),
             bytes_text(fault.stored_bytes), _at(fault.recovery_ps),
             *(_step(stretch) for stretch in (fault.before, fault.during, fault.after))) for fault in result.faults]
    return join([table(("fault", "from", "until", "sent over links", "read from storage", "recovery",
                        "decode step before", "during", "after"), rows),
                 note("A fault without a time did not take effect, or was not over when the run ended.")])


def _at(ps: int | None) -> str:
    return "-" if ps is None else time_text(seconds(ps))


def _step(stretch: Stretch | None) -> str:
    return "-" if stretch is None else time_text(stretch.decode_step_s)


def approximations(results: dict[str, Result]) -> Markup:
    """What the emulation leaves out; where runs differ, which of them."""
    lines = approximated(results)
    if not lines:
        return absent("This run names no approximation of its own; DESIGN.md says what is not modelled in general.")
    return sentences(lines)


def provenance(results: dict[str, Result]) -> Markup:
    """Every constant with its kind, source and range, assumed ones first; runs with the same constants together."""
    groups: dict[tuple[Constant, ...], list[str]] = {}
    for name, result in results.items():
        groups.setdefault(result.provenance, []).append(name)
    out = []
    for constants, names in groups.items():
        found = results[names[0]].confidence
        kinds = ", ".join(f"{found.kinds[kind]} {kind.replace('_', ' ')}" for kind in sorted(found.kinds, key=_trust))
        of = f" ({', '.join(names)})" if len(groups) > 1 else ""
        out.append(tag("p", f"Confidence{of}: ", tag("strong", found.label), f"; {len(constants)} constants: {kinds}. "
                       "A result is as sure as the least sure of the constants that it hangs on."))
        rows = [(row.kind.replace("_", " "), row.path.removeprefix("hardware."), row.value,
                 "-" if row.range is None else f"{row.range[0]} to {row.range[1]}", row.source)
                for row in sorted(constants, key=lambda row: _trust(row.kind))]
        assumed = [row for row in rows if row[0] == "assumed"]
        head = ("kind", "constant", "value", "range", "source")
        if assumed:
            out.append(table(head, assumed, words=5))
        if len(rows) > len(assumed):
            out.append(folded(f"the other {len(rows) - len(assumed)} constants", table(head, rows[len(assumed):],
                                                                                   words=5)))
    return join(out)


def _trust(kind: str) -> int:
    return TRUST.index(kind)


def identity(results: dict[str, Result]) -> Markup:
    """Digest, seed, hashes and versions of each run, and how to make each again."""
    names = list(results)
    hashes = sorted(dict.fromkeys(name for result in results.values() for name in result.hashes))
    versions = sorted(dict.fromkeys(name for result in results.values() for name in result.host.versions))
    rows = [("digest", *(result.digest for result in results.values())),
            ("seed", *(str(result.config.get("seed")) for result in results.values())),
            *((f"{name} (SHA-256)", *(result.hashes.get(name, "-") for result in results.values())) for name in hashes)]
    return join([
        folded("digest, seed and hashes of what the runs read", table(("", *names), rows, words=1 + len(names))),
        facts([(name, ", ".join(dict.fromkeys(r.host.versions.get(name, "-") for r in results.values())))
               for name in versions]),
        *(folded(f"make {name} again", _again(result)) for name, result in results.items())])


def _again(result: Result) -> Markup:
    return join([note("Save this as again.yaml, beside the files that it names, and run the command: the result's "
                      f"digest is {result.digest} again."),
                 tag("pre", tag("code", "moelab run again.yaml")), tag("pre", tag("code", run_yaml(result)))])


def run_yaml(result: Result) -> str:
    """The run's file, as its result tells it."""
    config = {key: value for key, value in result.config.items() if key != "machine_options"}
    return yaml.safe_dump(config, sort_keys=True, allow_unicode=True, width=100)
