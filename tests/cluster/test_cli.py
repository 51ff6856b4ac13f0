"""The command line: documented exit codes, one sentence on stderr, nothing slow before it is needed."""

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.config.names import CONFIGS, names
from cluster.config.quantities import ENERGY
from cluster.main import app, enter

SCRIPT = Path(sys.executable).parent / "moelab"
FAST = ["--set", "engine=spec", "--set", "limits.steps=2"]
RUN: dict[str, Any] = {
    "machine": "template", "model": "olmoe-1b-7b", "policy": "expert_parallel", "against": ["tensor_parallel"],
    "workload": {"work": "synthetic", "generator": "balanced", "prompt_tokens": 2, "output_tokens": 2}}

POLICY = """
from dataclasses import dataclass
from typing import ClassVar

@dataclass(frozen=True)
class Policy:
    exact: ClassVar[bool] = True

    def start(self, setting):
        {body}

    def plan(self, view, state):
        return None
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(RUN))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def script(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(SCRIPT), *arguments], capture_output=True, text=True, timeout=120, **more)


@pytest.mark.parametrize(("arguments", "code", "told"), [
    (["rn"], 2, "No such command 'rn'"),
    (["run"], 2, "Missing argument 'RUN'"),
    (["run", "demo", "--sett", "a=b"], 2, "No such option: --sett"),
    (["run", "dmeo"], 2, "did you mean 'demo'"),
    (["run", "./none.yaml"], 2, "there is no config file"),
    (["check", "demo", "--set", "sed=1"], 2, "did you mean 'seed'"),
    (["run", "demo", "--transport", "rai"], 2, "did you mean 'ray'"),
    (["compare", "demo", "--policies", "lru"], 2, "compare needs two policies or more"),
    (["compare", "demo", "--policies", ","], 2, "--policies is empty"),
    (["compare", "olmoe_h200", "--policies", "lru(slots),on_demand"], 2, "written like lru(slots=8)"),
    (["compare", "olmoe_h200", "--policies", "lru(slots=8,on_demand"], 2, "written like lru(slots=8)"),
    (["compare", "olmoe_h200", "--policies", "lru(slot=8),on_demand"], 2, "did you mean 'slots'"),
    (["list", "machine"], 2, "did you mean 'machines'"),
    (["schema", "hardwear"], 2, "did you mean 'hardware'"),
    (["check", "mixtral_edge", "--set", "machine.options.units=2"], 2, "does not fit"),
    (["check", "mixtral_edge", "--set", "policy.parameters.slot=2"], 2, "unknown parameter 'slot'"),
    (["check", "olmoe_h200", "--set", "policy.parameters.slots=many"], 2, "slots is 'many'"),
    (["check", "mixtral_edge", "--set", "policy=lru(slots=2)"], 2, "parameters stand apart from the name"),
    (["check", "mixtral_edge", "--set", "policy=no_such.module:Policy"], 2, "no_such"),
    (["check", "mixtral_edge", "--set", "policy=resident"], 4, "room for"),
    (["check", "demo", "--set", "model={checkpoint: nowhere}"], 3, "there is no folder"),
    (["trace", "info", "nope"], 2, "unknown trace 'nope'"),
    (["trace", "info", "./nope.npz"], 3, "there is no trace file"),
    (["trace", "info", str(CONFIGS / "run" / "demo.yaml")], 3, "no trace file (an .npz of plain arrays)\n"),
    (["trace", "record", "mixtral_edge", "--out", "x.npz"], 2, "recorded from real weights"),
    (["trace", "convert", "nope.npy", "--out", "x.npz", "--model", "m", "--experts", "8"], 3, "there is no file"),
    (["trace", "convert", "nope.npy", "--out", "x.npz", "--model", "m", "--experts", "0"], 2, "experts"),
    (["trace", "fit", "nope", "-o", "x.json"], 2, "unknown trace 'nope'"),
    (["check", "qwen3_cxl", "--set", "workload.generator={fitted: nope.json}"], 3, "there is no fitted generator"),
    (["check", "qwen3_cxl", "--set", "workload.generator={name: hot_set, experts: 200}"], 2, "more than the 128"),
])
def test_a_mistake_is_one_sentence_with_its_exit_code(
        arguments: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert enter(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("moelab: ")
    assert err.count("\n") == 1
    assert told in err
    assert "Traceback" not in err


def test_a_fitted_generator_drives_another_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted = tmp_path / "like.json"
    assert enter(["trace", "fit", "embedded-code", "-o", str(fitted), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert abs(told["generated"]["shared_with_last"] - told["recorded"]["shared_with_last"]) < 0.02
    assert enter(["run", "qwen3_cxl", "--set", f"workload.generator={{fitted: {fitted}}}", "--set",
                  "workload.output_tokens=2", "--set", "workload.prompt_tokens=4", "--out", str(tmp_path / "out")]) == 0
    results = [json.loads(file.read_text()) for file in sorted((tmp_path / "out").rglob("result.json"))]
    assert {result["hashes"]["generator"] for result in results} == {
        hashlib.sha256(hashlib.sha256(fitted.read_bytes()).digest()).hexdigest()}


def test_flat_ids_take_top_k_from_a_model_that_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = Path(__file__).parents[1] / "workloads" / "samples" / "sglang_generate.jsonl"
    assert enter(["trace", "convert", str(sample), "--model", "mixtral-8x7b", "--experts", "8", "--out",
                  str(tmp_path / "t.npz")]) == 0
    assert capsys.readouterr().out.endswith("t.npz: 7 tokens\n")


def test_debug_shows_the_traceback_wherever_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--debug", "run", "dmeo"], ["run", "dmeo", "--debug"]):
        assert enter(arguments) == 2
        err = capsys.readouterr().err
        assert "Traceback" in err
        assert err.splitlines()[-1].startswith("moelab: unknown run 'dmeo'")


@pytest.fixture
def faulty() -> Iterator[str]:
    @app.command("faulty")
    def fail() -> None:
        raise ZeroDivisionError("ours")
    yield "faulty"
    app.registered_commands.pop()


def test_an_internal_error_keeps_its_traceback_and_is_told_as_ours(
        faulty: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert enter([faulty]) == 70
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "ZeroDivisionError: ours" in err
    assert "a fault of moelab's" in err.splitlines()[-1]
    assert "report it" in err.splitlines()[-1]


def test_an_error_of_a_users_policy_is_not_told_as_ours(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bad.py").write_text(POLICY.format(body="return 1 / 0"))
    assert enter(["check", "./mine.yaml", "--set", "policy=./bad.py"]) == 4
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"moelab: ZeroDivisionError was raised in {folder}/bad.py line 10, which is not part of moelab"


@pytest.mark.parametrize("body", ["import numpy; numpy.zeroes(3)", "return numpy..zeros(3)"])
def test_an_error_that_a_users_policy_provokes_in_a_library_is_told_as_the_policys(
        folder: Path, body: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bad.py").write_text(POLICY.format(body=body))
    assert enter(["check", "./mine.yaml", "--set", "policy=./bad.py"]) == 4
    assert f"was raised in {folder}/bad.py line 10" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("arguments", [[], ["trace"]])
def test_without_a_command_the_help_is_shown_as_it_is(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert enter(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Usage: moelab")
    assert "Commands:" in lines
    assert lines[-1] == "moelab: a command is missing"


@pytest.mark.parametrize("name", names("run"))
def test_check_prints_the_run_and_marks_what_is_assumed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert enter(["check", name]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{name}: sound\n")
    assert "  batch: 1\n" not in out, "a default among what the config says"
    assert enter(["check", name, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    constants = [row for row in told["provenance"] if row["path"].startswith("hardware.")]
    assert all(row["range"] for row in constants if row["kind"] == "assumed")
    assert ("│ * │ " in out) == any(row["kind"] == "assumed" for row in constants)
    of_time = [row for row in constants if row["path"].rpartition(".")[2] not in ENERGY]
    assert told["machine"]["confidence"]["constants"] == len(of_time)


def test_check_prints_all_of_the_config_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert enter(["check", "mixtral_edge"]) == 0
    assert "dilation: auto" not in capsys.readouterr().out
    assert enter(["check", "mixtral_edge", "--all"]) == 0
    assert "dilation: auto" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_a_policy_that_is_less_than_its_name_without_a_forecast_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["mixtral_3090", "--policies", "lru(slots=1),lru_prefetch(slots=1)", "--set", "workload.prompt_tokens=2",
             "--set", "workload.output_tokens=1", "--set", "report=false"]
    sentence = "lru_prefetch works as lru: the run asks for no forecast."
    for forecast, says in (("none", True), ("oracle", False)):
        setting = ["--set", f"forecast={forecast}"]
        assert enter(["compare", *asked, *setting]) == 0
        out = capsys.readouterr().out
        assert (f"approximation: {sentence} (lru_prefetch)\n" in out) == says
        assert enter(["check", "mixtral_3090", "--set", "policy={name: lru_prefetch, parameters: {slots: 1}}",
                      *setting]) == 0
        assert (f"approximation: {sentence}\n" in capsys.readouterr().out) == says


def test_check_does_not_carry_the_run_out(folder: Path) -> None:
    assert enter(["check", "./mine.yaml"]) == 0
    assert [path.name for path in folder.iterdir()] == ["mine.yaml"]


def test_list_names_every_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert enter(["list", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"machines", "models", "policies", "precisions", "workloads", "generators", "traces",
                         "runs", "studies", "decisions"}
    assert told["generators"]["balanced"] == "All experts alike."
    assert set(told["machines"]) == set(names("hardware"))
    assert {"embedded", "mixtral-8x7b"} <= set(told["models"])
    assert all(told["runs"].values())
    assert enter(["list", "runs"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split()[0] == min(names("run"))


@pytest.mark.parametrize("kind", ["decide", "hardware", "policy", "precision", "run", "study", "workload"])
def test_schema_is_json_schema_that_forbids_unknown_keys(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert enter(["schema", kind]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    if kind == "hardware":
        assert {"from", "to"} <= set(schema["$defs"]["LinkSpec"]["properties"])


def test_run_writes_results_and_prints_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert enter(["run", "./mine.yaml", *FAST]) == 0
    out = capsys.readouterr().out
    assert "tensor_parallel" in out
    assert "files: runs/mine/{expert_parallel,tensor_parallel}/" in out
    assert (folder / "runs" / "mine" / "tensor_parallel" / "result.json").is_file()


def test_compare_takes_policies_by_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert enter(["compare", "./mine.yaml", "--policies", "tensor_parallel,on_demand", "--json", "--out", "there",
                  *FAST]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told) == ["on_demand", "tensor_parallel"]
    assert sorted(path.name for path in (folder / "there").iterdir()) == ["on_demand", "report.html",
                                                                           "tensor_parallel"]


def test_compare_takes_policies_with_their_parameters(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = "expert_parallel(placement=round_robin, slots=3),on_demand,expert_parallel(placement=contiguous)"
    assert enter(["compare", "./mine.yaml", "--policies", asked, "--json", *FAST]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {name: one["config"]["policy"]["parameters"] for name, one in told.items()} == {
        "expert_parallel(placement=round_robin, slots=3)": {"placement": "round_robin", "slots": 3}, "on_demand": {},
        "expert_parallel(placement=contiguous)": {"placement": "contiguous"}}
    assert (folder / "runs" / "mine" / "on_demand" / "result.json").is_file()


def test_json_of_one_run_is_its_result(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert enter(["run", "./mine.yaml", "--set", "against=[]", "--json", *FAST]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((folder / "runs" / "mine" / "result.json").read_text())


@pytest.mark.usefixtures("folder")
def test_progress_keeps_out_of_the_way_of_what_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert enter(["run", "./mine.yaml", "--json", *FAST]) == 0
    assert capsys.readouterr().err == ""


def test_trace_is_converted_and_described(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [[[0, 1], [2, 3]], [[1, 0], [3, 2]], [[1, 2], [3, 0]], [[1, 2], [0, 1]]]
    (folder / "plain.json").write_text(json.dumps(rows))
    assert enter(["trace", "convert", "plain.json", "--out", "t.npz", "--model", "m", "--experts", "4",
                  "--batch", "2"]) == 0
    assert capsys.readouterr().out == "t.npz: 4 tokens\n"
    assert enter(["trace", "info", "./t.npz", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["tokens"], told["steps"], told["num_experts"], told["top_k"]) == (4, 2, 4, 2)
    assert enter(["trace", "info", "./t.npz"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["tokens", "4"]


@pytest.mark.slow
@pytest.mark.parametrize("batch", ["3", pytest.param("4", marks=pytest.mark.soak)])
def test_a_recorded_trace_replays_to_the_times_of_its_run(folder: Path, batch: str) -> None:
    few = ["--set", "workload.output_tokens=3", "--set", f"workload.batch={batch}"]
    done = script("trace", "record", "demo", "--out", "t.npz", *few, cwd=folder)
    assert done.returncode == 0, done.stderr
    told = json.loads(script("trace", "info", "./t.npz", "--json", cwd=folder).stdout)
    assert (told["sequences"], told["decode_tokens"], told["num_experts"], told["moe_layers"]) == (4, 8, 16, 6)
    assert told["forecast_hit_rate"] > told["top_k"] / told["num_experts"]
    ran = json.loads(script("run", "demo", "--set", "against=[]", "--transport", "local", "--json", *few,
                            cwd=folder).stdout)
    data = {"machine": ran["config"]["machine"], "model": "embedded", "policy": "expert_parallel",
            "forecast": "recorded", "workload": {"work": "replay", "trace": "./t.npz"}}
    (folder / "again.yaml").write_text(yaml.safe_dump(data))
    again = json.loads(script("run", "./again.yaml", "--json", cwd=folder).stdout)
    assert again["hashes"]["spans"] == ran["hashes"]["spans"]
    assert again["emitted_tokens"] == ran["emitted_tokens"] == 12


@pytest.mark.slow
def test_doctor_finds_this_host_fit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert enter(["doctor"]) == 0
    out = capsys.readouterr().out
    assert all(line.split()[0] in ("OK", "WARN") for line in out.splitlines())
    assert enter(["doctor", "--json", "--out", "/proc/nowhere"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["output folder"]["status"] == "FAIL"
    assert told["output folder"]["remedy"]
    assert list(folder.iterdir()) == [folder / "mine.yaml"]


def cpu_s(*command: str) -> float:
    """CPU time of a command, the least of two."""
    spent = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(spent)


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["run", "--help"]])
def test_help_and_lists_cost_little_more_than_the_libraries_that_they_need(arguments: list[str]) -> None:
    # In time of this host beside time of this host, which differ by two from one hour to the next.
    floor_s = cpu_s(sys.executable, "-c", "import numpy, pydantic, typer, yaml")
    assert cpu_s(str(SCRIPT), *arguments) < 2.5 * floor_s


def test_nothing_heavy_is_imported_for_help_or_a_list() -> None:
    heavy = "{'torch', 'ray', 'transformers', 'numba', 'scipy', 'pandas', 'rich'} & set(sys.modules)"
    code = f"import sys; from cluster.main import enter; enter(['list']); enter(['--help']); print(); print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=CONFIGS.parent)
    assert done.stdout.splitlines()[-1] == "set()", done.stdout


def test_the_current_folder_does_not_come_before_ours(tmp_path: Path) -> None:
    for package in ("moe", "cluster", "emulation"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('the wrong package')\n")
    (tmp_path / "configs" / "run").mkdir(parents=True)
    (tmp_path / "configs" / "run" / "stray.yaml").write_text("{}")
    done = script("list", "runs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout
    assert "stray" not in done.stdout
    assert script("check", "mixtral_edge", cwd=tmp_path).returncode == 0


def test_a_broken_pipe_is_quiet() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        done = subprocess.run([str(SCRIPT), "schema", "run"], stdout=gone, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 1
    assert done.stderr == b""


def test_an_interrupt_ends_with_130_and_no_traceback(folder: Path) -> None:
    (folder / "slow.py").write_text(POLICY.format(
        body="import pathlib, time; pathlib.Path('begun').touch(); time.sleep(100)"))
    with subprocess.Popen([str(SCRIPT), "check", "./mine.yaml", "--set", "policy=./slow.py"], cwd=folder,
                          stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 60
        while not (folder / "begun").exists() and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert process.stderr is not None
        assert process.stderr.read() == "moelab: interrupted\n"


def test_check_tells_what_lies_on_each_device() -> None:
    told = script("check", "mixtral_edge", "--set", "against=[]").stdout
    # 32 layers x 8 experts of 352,321,536 B over four DIMMs.
    (row,) = [line for line in told.splitlines() if "ndp3" in line and "hardware" not in line]
    assert "32.000 GB" in row
    assert f"{32 * 8 * 352_321_536 / 4 / 1e9:.3f} GB" in row


@pytest.mark.parametrize("command", [["list"], ["trace", "info", "embedded-code"]])
def test_output_that_cannot_be_written_is_told(command: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([str(SCRIPT), *command], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (
        1, "moelab: standard output cannot be written: No space left on device\n")
    closed = subprocess.run(["sh", "-c", '"$0" "$@" >&-', str(SCRIPT), *command], stderr=subprocess.PIPE, text=True,
                            timeout=60)
    assert (closed.returncode, closed.stderr) == (0, "")


def test_check_refuses_a_policy_that_starts_with_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bad.py").write_text(POLICY.format(body="return None"))
    assert enter(["check", "./mine.yaml", "--set", "policy=./bad.py"]) == 4
    assert "start() returned NoneType" in capsys.readouterr().err
    (folder / "bad.py").write_text(POLICY.format(body="raise SystemExit"))
    assert enter(["check", "./mine.yaml", "--set", "policy=./bad.py"]) == 4
    assert f"{folder}/bad.py line 10 ended the program" in capsys.readouterr().err


def test_a_folder_where_a_result_belongs_leaves_nothing_written(
        folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "o" / "result.json").mkdir(parents=True)
    assert enter(["run", "./mine.yaml", *FAST, "--set", "against=[]", "--out", "o"]) == 1
    assert "cannot write o/result.json: Is a directory; nothing was written" in capsys.readouterr().err
    assert [path.name for path in (folder / "o").iterdir()] == ["result.json"]


def test_a_terminal_that_knows_ascii_only_is_enough(folder: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = script("run", "./mine.yaml", *FAST, "--out", "\u00fc", env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert (folder / "\u00fc" / "tensor_parallel" / "result.json").is_file()


@pytest.mark.parametrize("setting", ["model={{config: {}}}", "model={{checkpoint: {}}}", "policy=./{}.py",
                                     "workload={{work: replay, trace: ./{}.npz}}"])
def test_a_path_that_no_file_can_have_is_told(
        setting: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del folder
    assert enter(["check", "./mine.yaml", "--set", setting.format("n" * 300)]) in (2, 3)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "n" * 300 in err
