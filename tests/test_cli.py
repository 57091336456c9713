"""The command line: verbs and flags, endings, start-up."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from energynets.cli import main
from energynets.cli.main import app
from energynets.cli.predict import _lines
from energynets.config import Experiment
from energynets.data.dataset import TextDocuments
from energynets.data.planted import PlantedSpec, tokens_of_texts
from energynets.errors import (
    CheckpointError,
    DataError,
    InferenceError,
    MissingExtraError,
    NotWrittenError,
    TrainingError,
)
from energynets.strict_yaml import parse_yaml
from energynets.training import load_run
from energynets.training import predict as predict_scores

SMALL: dict[str, Any] = {
    "name": "small",
    "data": {"planted": {"num_labels": 4, "num_documents": 60, "num_test_documents": 20, "vocabulary_size": 60}},
    "model": {
        "kind": "classifier",
        "features": {"kind": "kim_cnn", "embedding_dim": 4, "windows": [1], "num_filters": 4},
    },
    "training": {"stages": [{"name": "unary", "trains": ["features", "unary"], "epochs": 1}]},
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(Experiment.from_tree(SMALL).to_yaml())
    return path


def fails(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 2) -> str:
    """The one line on stderr of a command that ends with `status` and prints nothing."""
    assert main(list(arguments)) == status
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.count("\n") == 1, errors
    assert errors.startswith("energynets")
    return errors


# --------------------------------------------------------------------------------------------------------- verbs


def verbs(command: Any, path: str = "energynets") -> list[str]:
    context = typer.Context(command)
    if inner := getattr(command, "commands", None):
        return [line for name, child in inner.items() for line in verbs(child, f"{path} {name}")]
    words = []
    for parameter in command.get_params(context):
        words.append(
            "|".join(parameter.opts) if parameter.param_type_name == "option" else (parameter.metavar or parameter.name)
        )
    return [" ".join([path, *words])]


def test_verbs_and_flags_are_the_golden_list() -> None:
    """Verbs and flags are promises to users: change `golden/cli.txt` only on purpose."""
    lines = verbs(typer.main.get_command(app))
    golden = Path(__file__).parent / "golden" / "cli.txt"
    assert "\n".join(lines) + "\n" == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("line", verbs(typer.main.get_command(app)))
def test_every_verb_has_help_with_an_example(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    verb = [word for word in line.split()[1:] if word.isalpha() and word.islower()]
    depth = 2 if verb[0] in ("data", "config") else 1
    assert main([*verb[:depth], "--help"]) == 0
    assert "Example: " in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_help_says_what_has_no_certificate(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    words = " ".join(re.findall(r"[\w.]+", capsys.readouterr().out))
    assert "with model.label_chunk or model.shortlist there are none" in words


def test_help_is_quick_and_leaves_torch_alone() -> None:
    program = (
        "import sys, time; began = time.perf_counter(); from energynets.cli import main; main(['--help']);"
        "heavy = [m for m in ('torch', 'numpy', 'pydantic', 'matplotlib', 'sklearn') if m in sys.modules];"
        "print(heavy, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "compare" in done.stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("energynets ")


# -------------------------------------------------------------------------------------------------------- endings


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "did you mean 'train'"),
        (["train"], "Missing argument"),
        (["train", "x.yaml", "--fodler", "y"], "--folder"),
        (["train", "x.yaml"], "x.yaml: cannot read the configuration"),
        (["data"], "Missing command"),
        (["compare", "--seeds", "none"], "--seeds"),
        (["data", "info", "bibtx"], "did you mean 'bibtex'?"),
        (["evaluate", "nowhere"], "nowhere: not a run folder"),
        (["evaluate", "nowhere", "--split", "tset"], "did you mean 'test'?"),
        (["data", "make", "x", "--set", "num_label=3"], "did you mean 'num_labels'?"),
    ],
)
def test_mistakes_of_users_are_one_line(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected.lower() in fails(capsys, *arguments).lower()


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (CheckpointError("run: truncated"), 2, "energynets: run: truncated"),
        (MissingExtraError("jinja2", "report", "report.html"), 2, "pip install 'energynets[report]'"),
        (TrainingError("step 3: loss is nan;\nlower the rate"), 1, "step 3: loss is nan; lower the rate"),
        (NotWrittenError("run: cannot write this checkpoint"), 1, "cannot write this checkpoint"),
        (InferenceError("not finite"), 1, "energynets: not finite"),
        (OSError(28, "No space left on device", "runs/a"), 1, "energynets: runs/a: No space left on device"),
        (KeyboardInterrupt("saved; continue with --resume"), 130, "energynets: saved; continue with --resume"),
        (KeyboardInterrupt(), 130, "--resume"),
        (ZeroDivisionError("oh"), 1, "failed, and not by your doing: ZeroDivisionError: oh; the traceback is in "),
    ],
)
def test_status_and_line_of_every_ending(
    error: BaseException,
    status: int,
    expected: str,
    config: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(Experiment, "load", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    line = fails(capsys, "train", str(config), status=status)
    assert expected in line
    if "traceback is in" in line:
        assert "ZeroDivisionError" in Path(line.split()[-1]).read_text()


def test_debug_prints_the_traceback_wherever_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "nowhere.yaml", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_closed_pipe_is_quiet() -> None:
    command = [sys.executable, "-m", "energynets", "config", "schema"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


# --------------------------------------------------------------------------------------------------------- config


def test_config_show_is_the_resolved_experiment(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["config", "show", str(config), "--set", "seed=7"]) == 0
    shown = tmp_path / "shown.yaml"
    shown.write_text(capsys.readouterr().out)
    assert Experiment.load(shown) == Experiment.load(config, ["seed=7"])


def test_config_check_knows_the_catalogue(config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files = {"name": "mine", "format": "tsv", "train": "train.tsv"}
    for number, data in enumerate([{"name": "bibtexx"}, {"name": "Bibtex"}, files]):
        path = tmp_path / f"{number}.yaml"
        path.write_text(json.dumps(SMALL | {"data": data}))
        assert main(["config", "check", str(path)]) == (2 if number == 0 else 0)
    errors = capsys.readouterr().err
    assert errors.startswith(f"energynets: {tmp_path / '0.yaml'}: data.name: no data set 'bibtexx'")
    assert "did you mean 'bibtex'?" in errors
    assert errors.count("\n") == 1


def test_config_check_names_every_bad_file(config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("data: {planted: {}}\nmodel: {kind: lineer}\n")
    assert main(["config", "check", str(bad), str(config)]) == 2
    out, errors = capsys.readouterr()
    assert "bad.yaml: model.kind: unknown kind 'lineer' (did you mean 'linear'?" in errors
    assert f"{config}: fine, classifier" in out


def test_config_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$schema"].startswith("https://json-schema.org/")


# ---------------------------------------------------------------------------------- train, evaluate, predict, data


def test_train_evaluate_predict(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["train", str(config), "--folder", str(run)]) == 0
    out, errors = capsys.readouterr()
    assert "small (kim_cnn, seed 0) on test" in out
    assert "f1_example" in out
    assert "unary epoch 1" in errors
    assert "there is a run here already; continue it with --resume" in fails(
        capsys, "train", str(config), "--folder", str(run), "--quiet"
    )
    assert main(["train", str(config), "--folder", str(run), "--resume", "--quiet", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert main(["evaluate", str(run), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["metrics"] == pytest.approx(result["metrics"]["test"])
    assert main(["evaluate", str(run)]) == 0
    assert "expected calibration error of all labels: " in capsys.readouterr().out
    text = tmp_path / "new.txt"
    text.write_text("w00012 w00013\nw00014\n")
    assert main(["predict", str(run), str(text), "--top", "2", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [len(line["labels"]) for line in lines] == [2, 2]
    assert lines[0]["labels"][0]["name"].startswith("label-")
    assert main(["predict", str(run), str(text), "--top", "1"]) == 0
    assert capsys.readouterr().out.startswith("1\tlabel-")
    assert "unknown format 'tvs'" in fails(capsys, "predict", str(run), str(text), "--format", "tvs")
    assert "cannot read" in fails(capsys, "predict", str(run), str(tmp_path / "nowhere.txt"))


@pytest.mark.parametrize("energy", ["icnn", "spen"])
def test_evaluate_and_predict_show_the_certificate_or_the_sentence(
    energy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run, text = tmp_path / "energy.yaml", tmp_path / "run", tmp_path / "new.txt"
    model = {"kind": "energy_network", "features": SMALL["model"]["features"], "energy": {"kind": energy}}
    stages = {"stages": [{"name": "energy", "epochs": 1}]}
    path.write_text(Experiment.from_tree(SMALL | {"model": model, "training": stages}).to_yaml())
    assert main(["train", str(path), "--folder", str(run), "--quiet"]) == 0
    text.write_text("w00012 w00013\nw00014\n")
    capsys.readouterr()

    def output(*arguments: str) -> str:
        assert main([*arguments]) == 0
        return capsys.readouterr().out

    shown, norm_shown = output("evaluate", str(run)).splitlines()[-2:]
    measured = json.loads(output("evaluate", str(run), "--json"))
    found, norm = measured["certificate"], measured["gradient_norm"]
    assert norm_shown.endswith(f"mean {norm['mean']:.2e}  median {norm['median']:.2e}  max {norm['max']:.2e}")
    assert 0 < norm["mean"] <= norm["max"]
    lines = output("predict", str(run), str(text), "--top", "1").splitlines()
    rows = [json.loads(line)["certificate"] for line in output("predict", str(run), str(text), "--json").splitlines()]
    norms = [
        json.loads(line)["gradient_norm"] for line in output("predict", str(run), str(text), "--json").splitlines()
    ]
    assert [line.split("\t")[3] for line in lines] == [f"gradient norm {value:.2e}" for value in norms]
    if energy == "spen":
        sentence = "no certificate: not convex"
        assert shown.strip() == found == sentence
        assert [line.split("\t")[2] for line in lines] == rows == [sentence, sentence]
    else:
        assert shown.endswith(f"mean {found['mean']:.2e}  median {found['median']:.2e}  max {found['max']:.2e}")
        assert 0 < found["median"] <= found["max"] < 1
        assert [line.split("\t")[2] for line in lines] == [f"certificate {row:.2e}" for row in rows]


def test_predict_marks_what_the_runs_decoder_chooses(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, text = tmp_path / "run", tmp_path / "new.txt"
    text.write_text("w00012 w00013\nw00014\n")
    assert main(["train", str(config), "--folder", str(run), "--set", "evaluation.decoding=expected_f1"]) == 0
    assert "expected_f1: expected f1_example of each document" in capsys.readouterr().out
    assert main(["predict", str(run), str(text), "--top", "1"]) == 0
    # under one threshold a document may have no label; here never
    assert all(line.endswith("*") for line in capsys.readouterr().out.splitlines())
    trained = load_run(run)
    spec = PlantedSpec(**trained.experiment.data.planted.model_dump())
    inputs = tokens_of_texts(spec, TextDocuments(tuple(text.read_text().splitlines())))
    whole = predict_scores(trained, inputs, top=trained.kept)
    assert main(["predict", str(run), str(text), "--top", "100", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    marks = [[label["predicted"] for label in line["labels"]] for line in lines]
    assert marks == trained.decoder.choose(whole).tolist()
    assert main(["evaluate", str(run), "--decoding", "per_label", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert (measured["decoding"], measured["threshold"]) == ("per_label", None)
    assert "did you mean 'per_label'" in fails(capsys, "evaluate", str(run), "--decoding", "perlabel")


def test_several_seeds_in_one_process(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    assert main(["train", str(config), "--folder", run, "--seeds", "2", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert [f"seed {seed}) on test" in out for seed in range(3)] == [True, True, False]
    assert f"the run is in {run}-seed1" in out
    assert main(["train", str(config), "--folder", run, "--seeds", "1,4", "--resume", "--quiet", "--json"]) == 0
    assert [result["seed"] for result in json.loads(capsys.readouterr().out)] == [1, 4]
    for wrong in ("0", "two", "1,,2", "-1"):
        assert "--seeds: expected how many, as 5, or which, as 3,5" in fails(
            capsys, "train", str(config), f"--seeds={wrong}"
        )
    for wrong, last in (("4294967296,1", 2**32), ("4294967297", 2**32), (f"1,{10**30}", 10**30)):
        assert f"--seeds: expected seeds from 0 to 4294967295, got {last}" in fails(
            capsys, "train", str(config), "--folder", str(tmp_path / "wrong"), "--seeds", wrong
        )
    assert not list(tmp_path.glob("wrong*"))


def test_planted_files_train_and_predict_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tokenizers")
    folder = tmp_path / "planted"
    sizes = ["num_labels=4", "num_documents=60", "num_test_documents=10", "vocabulary_size=60"]
    assert main(["data", "make", str(folder), *(word for size in sizes for word in ("--set", size)), "--quiet"]) == 0
    files = parse_yaml(capsys.readouterr().out.partition("train with data: ")[2], "what data make advises")
    path = tmp_path / "text.yaml"
    path.write_text(Experiment.from_tree(SMALL | {"data": files | {"text": {"min_count": 1}}}).to_yaml())
    assert main(["train", str(path), "--folder", str(tmp_path / "run"), "--quiet"]) == 0
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run"), str(folder / "test.tsv.gz"), "--format", "tsv", "--top", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 10


def test_a_file_to_predict_has_the_columns_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tokenizers")
    rows = [("oats", "rye"), ("rye", "oats"), ("oats,rye", "oats rye")]  # labels may stand in either column
    for name, lines in (("train", 20 * rows), ("new", rows)):
        (tmp_path / f"{name}.tsv").write_text("".join(f"{text}\t{labels}\n" for labels, text in lines))
    data = {"format": "tsv", "train": str(tmp_path / "train.tsv"), "text": {"min_count": 1}}
    path, run = tmp_path / "text.yaml", tmp_path / "run"
    path.write_text(Experiment.from_tree(SMALL | {"data": data}).to_yaml())
    assert "cannot tell which column is the text" in fails(capsys, "train", str(path), "--quiet")
    path.write_text(Experiment.from_tree(SMALL | {"data": data | {"columns": ["text", "labels"]}}).to_yaml())
    assert main(["train", str(path), "--folder", str(run), "--quiet"]) == 0
    capsys.readouterr()
    assert main(["predict", str(run), str(tmp_path / "new.tsv"), "--format", "tsv", "--top", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_standard_input_is_a_document_a_line(tmp_path: Path, config: Path) -> None:
    run = tmp_path / "run"
    assert main(["train", str(config), "--folder", str(run), "--quiet"]) == 0
    command = [sys.executable, "-m", "energynets", "predict", str(run), "-", "--top", "1", "--json"]
    done = subprocess.run(command, input=b"w00012\n\nw00013\n", capture_output=True, check=True)
    assert len(done.stdout.splitlines()) == 3


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("first\fpage two\nnext\u2028line\u0085\x1c\v end\n", ["first\fpage two", "next\u2028line\u0085\x1c\v end"]),
        ("a\r\n\r\nb", ["a", "", "b"]),
        ("a\n\n", ["a", ""]),
        ("\n", [""]),
    ],
)
def test_lines_end_at_newlines_alone(content: str, lines: list[str], tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_bytes(content.encode())
    assert _lines(str(tmp_path / "new.txt")) == lines


def test_no_line_is_no_document(tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_bytes(b"")
    with pytest.raises(DataError, match="no documents; expected one a line"):
        _lines(str(tmp_path / "new.txt"))


def test_waiting_threads_soon_give_up_their_core(config: Path) -> None:
    """torch reads it when it is loaded: too late and GNU OpenMP still says what it started with."""
    command = [sys.executable, "-m", "energynets", "memory", str(config)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}

    def spin(**settings: str) -> str | None:
        given = environment | {"OMP_DISPLAY_ENV": "verbose"} | settings
        done = subprocess.run(command, env=given, capture_output=True, text=True, check=True)
        found = re.search(r"GOMP_SPINCOUNT = '(\w+)'", done.stderr)
        return found and found[1]

    if spin(GOMP_SPINCOUNT="77") != "77":
        pytest.skip("torch does not stand on GNU OpenMP here")
    assert spin() == "1000"
    assert spin(OMP_WAIT_POLICY="PASSIVE") == "0"


_LARGE_PAGES = """
import sys
from energynets.cli import main
main(sys.argv[1:])
import torch
large = torch.ones(1 << 24)
start = large.data_ptr()
inside = False
for line in open("/proc/self/smaps"):
    first = line.split()[0]
    if not first.endswith(":"):
        low, high = (int(end, 16) for end in first.split("-"))
        inside = low <= start < high
    elif inside and first == "VmFlags:":
        print("asked" if "hg" in line.split() else "small")
"""


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not say what memory is asked for")
def test_large_tensors_ask_for_large_pages() -> None:
    """torch reads the variable with its first tensor: too late, or under another name, and pages are small."""
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}

    def pages(verb: str, **settings: str) -> str:
        command = [sys.executable, "-c", _LARGE_PAGES, verb, "--help"]
        done = subprocess.run(command, env=environment | settings, capture_output=True, text=True, check=True)
        return done.stdout.split()[-1]

    if pages("bench", THP_MEM_ALLOC_ENABLE="1") != "asked":
        pytest.skip("this torch or system knows no large pages")
    assert pages("train") == "asked"
    assert pages("bench") == pages("train", THP_MEM_ALLOC_ENABLE="0") == "small"


@pytest.mark.parametrize(
    ("arguments", "where", "said"),
    [
        (["train", "CONFIG"], "energynets.training.train", "interrupted; the same command with --resume continues"),
        (["data", "fetch", "bibtex"], "energynets.data.catalogue.Entry.fetch", "the same command again goes on"),
        (["memory", "CONFIG"], "energynets.memory.estimate", "interrupted"),
    ],
)
def test_ctrl_c_says_how_to_go_on(
    config: Path, arguments: list[str], where: str, said: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupted)
    message = fails(capsys, *(str(config) if word == "CONFIG" else word for word in arguments), status=130)
    assert said in message
    assert ("--resume" in message) == (arguments[0] == "train")


def test_data_list_and_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list", "--root", str(tmp_path)]) == 0
    assert "bibtex" in capsys.readouterr().out
    assert main(["data", "info", "Wiki10-31K", "--root", str(tmp_path), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["labels"] == 30938
    assert info["present"] is False
    assert "cannot be fetched" in fails(capsys, "data", "fetch", "Wiki10-31K", "--root", str(tmp_path))


def test_compare_writes_its_files_and_fails_for_a_failed_cell(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("extends: small.yaml\ndata: {vectors: nowhere.txt}\n")
    folder = tmp_path / "both"
    assert main(["compare", str(config), str(broken), "--seeds", "1", "--folder", str(folder)]) == 1
    out, errors = capsys.readouterr()
    assert "broken (failed)" in out
    assert "energynets: failed: broken-seed0: " in errors
    assert {"table.md", "table.csv", "results.json", "runs", "configs"} <= set(os.listdir(folder))


def test_bench_says_where_benchmarks_come_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "energynets" / "__init__.py"
    monkeypatch.setattr("energynets.__file__", str(package))
    assert "they come with a checkout of the repository" in fails(capsys, "bench")


def test_one_of_several_processes_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the interpreter is taken down, which threads of torch's may not survive; by its status, output written."""
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(sys, "argv", ["energynets", "train", "no-such-file.yaml"])
    for processes in ("1", "2"):
        monkeypatch.setenv("WORLD_SIZE", processes)
        assert main() == 2
    assert ended == [2]
