"""`moelab schema`: the JSON schema of a kind of config, for editors and for reading."""

import json
from typing import Annotated

import typer

KINDS = ("decide", "hardware", "policy", "precision", "run", "study", "workload")
Kind = Annotated[str, typer.Argument(metavar="KIND", help=f"Which kind of config: {', '.join(KINDS)}.")]


def schema(kind: Kind = "run") -> None:
    """Print the JSON schema of a config file."""
    from cluster.config.hardware import Hardware
    from cluster.config.policy import PolicyFile
    from cluster.config.precision import Precision
    from cluster.config.quantities import Strict
    from cluster.config.run import RunConfig
    from cluster.config.workload import Workload
    from emulation.errors import ConfigError, unknown
    from studies.decide.study import Decide
    from studies.sweep_study import Study

    kinds: dict[str, type[Strict]] = {"decide": Decide, "hardware": Hardware, "policy": PolicyFile,
                                      "precision": Precision, "run": RunConfig, "study": Study, "workload": Workload}
    if kind not in kinds:
        raise ConfigError(unknown("kind of config", kind, kinds))
    print(json.dumps(kinds[kind].model_json_schema(by_alias=True), indent=2))
