"""What a configuration may say, and what it answers when it says something else."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from energynets.config import Experiment
from energynets.errors import ConfigError, nearest
from energynets.strict_yaml import format_yaml, parse_yaml

VALID: dict[str, Any] = {
    "name": "spen",
    "data": {"planted": {"num_labels": 8}},
    "model": {
        "kind": "energy_network",
        "features": {"kind": "xml_cnn", "windows": [2, 4]},
        "energy": {"kind": "spen"},
        "solver": {"kind": "mirror_descent", "steps": 2, "step_size": [1.0, 0.5]},
    },
    "training": {"stages": [{"name": "joint", "optimizer": {"learning_rate": 0.01}}]},
}


def refuse(*overrides: str, tree: dict[str, Any] = VALID) -> str:
    with pytest.raises(ConfigError) as caught:
        Experiment.from_tree(tree, overrides, source="file.yaml")
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("trainin.batch_size=3", "file.yaml: trainin: unknown key 'trainin' (did you mean 'training'? valid: data,"),
        (
            "training.batch_sise=3",
            "file.yaml: training.batch_sise: unknown key 'batch_sise' (did you mean 'batch_size'?",
        ),
        ("training.batch_size='64'", "file.yaml: training.batch_size: expected a whole number, got '64'"),
        ("training.batch_size=64.5", "file.yaml: training.batch_size: expected a whole number, got 64.5"),
        ("training.batch_size=true", "file.yaml: training.batch_size: expected a whole number, got true"),
        ("training.batch_size=0", "file.yaml: training.batch_size: expected 1 or more, got 0"),
        ("training.batch_size=", "file.yaml: training.batch_size: expected a whole number, got nothing"),
        ("training.stages.0.optimizer.learning_rate=.nan", "learning_rate: expected a finite number, got nan"),
        (
            "training.stages.0.epoch=3",
            "file.yaml: training.stages.0.epoch: unknown key 'epoch' (did you mean 'epochs'?",
        ),
        ("training.stages.1.epochs=3", "--set training.stages.1.epochs=3: expected a position from 0 to 0, got '1'"),
        (
            "evaluation.ks.0=3",
            "--set evaluation.ks.0=3: expected no position, there is no list or an empty one",
        ),
        ("training.stages={}", "file.yaml: training.stages: expected a list, got a section"),
        ("training.stages=[{name: a}, {name: a}]", "file.yaml: training.stages.1.name: two stages are called 'a'"),
        (
            "training.monitor=f1_exmple",
            "training.monitor: unknown metric 'f1_exmple' (did you mean 'f1_example'? valid:",
        ),
        ("data.text.lowercase=yes", "file.yaml: data.text.lowercase: expected true or false, got 'yes'"),
        ("data.format=xmcc", "file.yaml: data.format: unknown value 'xmcc' (did you mean 'xmc'? valid: mulan_arff,"),
        ("data={}", "file.yaml: data: expected one source: a catalogue `name`, or `format` with `train`, or `planted`"),
        ("data={format: xmc}", "file.yaml: data.train: missing; `format` needs the path of the training file"),
        ("data.inputs=counts", "file.yaml: data.inputs: xml_cnn reads tokens, got counts"),
        (
            "model.kind=energy_netwrk",
            "file.yaml: model.kind: unknown kind 'energy_netwrk' (did you mean 'energy_network'?",
        ),
        ("model={}", "file.yaml: model.kind: missing; one of bayes_optimal, classifier,"),
        ("model=spen", "file.yaml: model: expected a section of settings, got 'spen'"),
        (
            "model={kind: classifier}",
            "model.features: missing, a section with kind one of bag_of_words, kim_cnn, xml_cnn",
        ),
        (
            "model.features.windows=[2, wide]",
            "file.yaml: model.features.windows.1: expected a whole number, got 'wide'",
        ),
        (
            "model.solver={step_size: [1, 2]}",
            "model.solver.kind: missing; one of anderson, bundle_entropy, gradient_descent,",
        ),
        (
            "model.solver.step_size=big",
            "model.solver.step_size: expected a number above 0, or a list of them, got 'big'",
        ),
        ("model.solver.steps=3", "file.yaml: model.solver.step_size: expected one number or 3, one a step, got 2"),
        ("model.energy={kind: icnn, hidden: [4]}", "model.energy.hidden: expected a list of 2 or more, got [4]"),
        ("seed=-1", "file.yaml: seed: expected 0 or more, got -1"),
        ("seed.x=1", "file.yaml: seed: expected a whole number, got a section"),
        ("device=gpu", "file.yaml: device: expected auto, cpu, cuda or cuda:N, got 'gpu'"),
        ("name=../run", "file.yaml: name: expected letters, digits, '-' and '_', starting with a letter or digit"),
        ("seed", "--set seed: expected path=value, e.g. training.batch_size=32"),
        ("a..b=1", "--set a..b=1: expected path=value"),
        ("name.a=1", "--set name.a=1: name is a value, not a section"),
        ("seed=[1", "--set seed=[1: line 1: not valid YAML"),
        ("seed=!!python/name:os.system x", "tags like"),
        ("seed=&a [*a]", "not valid YAML"),
    ],
)
def test_mistake_is_one_line_with_path_expectation_and_nearest_name(override: str, expected: str) -> None:
    assert expected in refuse(override)


def test_of_many_names_the_nearest_is_said_or_a_few() -> None:
    many = [f"label{number:02}" for number in range(70)]
    assert nearest("x", ["b", "a"]) == " (valid: a, b)"
    assert nearest("labl01", many) == " (did you mean 'label01'?)"
    first = ", ".join(many[:10])
    assert nearest("x", many) == f" (valid: {first} and 60 more)"


def test_unknown_key_is_reported_before_the_missing_one_it_misspells() -> None:
    assert "unknown key 'modle' (did you mean 'model'?" in refuse(
        tree={"name": "a", "modle": {}, "data": {"planted": {}}}
    )


def test_energy_stage_needs_an_energy_network() -> None:
    tree = {"name": "a", "data": {"planted": {}}, "model": {"kind": "linear"}}
    stage = "training.stages=[{name: a, trains: [energy]}]"
    assert "training.stages.0.trains: 'energy' needs model.kind energy_network, got linear" in refuse(stage, tree=tree)


def test_a_baseline_has_no_stages_whatever_it_was_given() -> None:
    tree = {"name": "a", "data": {"planted": {}}, "model": {"kind": "linear"}}
    experiment = Experiment.from_tree(tree, ["training.stages=[{name: u, trains: [features]}]"])
    assert experiment.stages == ()
    assert experiment.hash() == "cf47fded2c79b3f4", "runs are found by it"
    fit = "training.stages=[{name: u, trains: [unary], fit: {}}]"
    assert "training.stages.0.fit: model.kind linear has no stages" in refuse(fit, tree=tree)


def test_bayes_line_needs_planted_data() -> None:
    tree = {"name": "a", "data": {"name": "bibtex"}, "model": {"kind": "bayes_optimal"}}
    assert "model.kind: bayes_optimal needs data.planted" in refuse(tree=tree)


# --------------------------------------------------------------------------------------------------------- YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        (".5", 0.5),
        ("30_000", 30000),
        ("010", 10),
        ("1:30", "1:30"),
        ("no", "no"),
        ("2020-01-01", "2020-01-01"),
        ("true", True),
        ("~", None),
        ("'1e-3'", "1e-3"),
        ("[1, 2.0, a]", [1, 2.0, "a"]),
    ],
)
def test_scalars_are_what_they_look_like(text: str, value: Any) -> None:
    assert parse_yaml(text, "text") == value
    assert type(parse_yaml(text, "text")) is type(value)


def test_duplicate_key_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("data: {planted: {}}\nseed: 1\nseed: 2\n")
    with pytest.raises(ConfigError, match=r"twice\.yaml: line 3: duplicate key 'seed'"):
        Experiment.load(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "expected a mapping of settings, got an empty file"),
        (b"- a", "expected a mapping of settings, got list"),
        (b"a: \xff", "not UTF-8 at byte 3"),
        (b"1: 2", "line 1: expected a name as key, got 1"),
        (b"extends: 3", "extends: expected the path of another configuration, got 3"),
        (b"extends: nowhere.yaml", "nowhere.yaml: cannot read the configuration: No such file"),
        (b"extends: bad.yaml", "bad.yaml: extends: the files extend one another in a circle"),
    ],
)
def test_file_that_is_not_a_configuration(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"\.yaml: ") as caught:
        Experiment.load(path)
    assert expected in str(caught.value)


def test_extends_merges_key_by_key_and_replaces_another_kind(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "name: base\ndata: {planted: {num_labels: 8, seed: 3}}\n"
        "model: {kind: energy_network, features: {kind: xml_cnn, num_filters: 7}, energy: {kind: spen, tau: 2.0}}\n"
    )
    path = tmp_path / "icnn.yaml"
    path.write_text("extends: base.yaml\ndata: {planted: {num_labels: 9}}\nmodel: {energy: {kind: icnn}}\n")
    experiment = Experiment.load(path, ["model.features.hidden=5"])
    dump = experiment.model_dump()
    assert experiment.name == "icnn"
    assert (dump["data"]["planted"]["num_labels"], dump["data"]["planted"]["seed"]) == (9, 3)
    assert (dump["model"]["features"]["num_filters"], dump["model"]["features"]["hidden"]) == (7, 5)
    assert (dump["model"]["energy"]["kind"], dump["model"]["energy"]["tau"]) == ("icnn", 1.0)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists))
@settings(deadline=None)
def test_written_yaml_reads_back(value: Any) -> None:
    assert parse_yaml(format_yaml({"key": value}), "text") == {"key": value}


# ------------------------------------------------------------------------------------------------------- hashing


def test_resolved_yaml_reloads_to_the_same_experiment(tmp_path: Path) -> None:
    experiment = Experiment.from_tree(VALID)
    path = tmp_path / "other.yaml"
    path.write_text(experiment.to_yaml(), encoding="utf-8")
    again = Experiment.load(path)
    assert again == experiment
    assert again.hash() == experiment.hash()


def test_hash_ignores_seed_name_device_and_folder_only() -> None:
    base = Experiment.from_tree(VALID).hash()
    same = ["seed=3", "name=other", "device=cpu", "data.root=/elsewhere"]
    assert Experiment.from_tree(VALID, same).hash() == base
    assert Experiment.from_tree(VALID, ["training.batch_size=63"]).hash() != base
    assert Experiment.from_tree(VALID, ["data.planted.seed=1"]).hash() != base
    assert Experiment.from_tree(VALID, ["evaluation.decoding=global"]).hash() == base
    assert Experiment.from_tree(VALID, ["evaluation.decoding=expected_f1"]).hash() != base
    assert Experiment.from_tree(VALID, ["evaluation.draws=1"]).hash() == base
    assert Experiment.from_tree(VALID, ["evaluation.draws=2"]).hash() != base
    assert Experiment.from_tree(VALID, ["training.initial_bias=random"]).hash() == base
    assert Experiment.from_tree(VALID, ["training.initial_bias=frequencies"]).hash() != base


# ----------------------------------------------------------------------------------------------------------- fuzz

JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["spen", "xml_cnn", "kim_cnn", "mirror_descent", "linear", "bayes_optimal", "energy", "bibtex"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
KEYS = sorted(
    {
        key
        for section in ("kind", "name", "data", "model", "features", "energy", "solver", "step_size")
        for key in [section]
    }
    | {"stages", "trains", "windows", "planted", "format", "train", "loss", "epochs", "propensity", "text"}
)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for key, child in inner for place in places(child, (*path, key)))]


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_any_mutation_is_valid_or_a_config_error(data: st.DataObject) -> None:
    tree = copy.deepcopy(VALID)
    for _ in range(data.draw(st.integers(1, 3))):
        *parents, last = data.draw(st.sampled_from([p for p in places(tree) if p] or [("name",)]))
        node: Any = tree
        for key in parents:
            node = node[key]
        action = data.draw(st.sampled_from(["replace", "delete", "add", "kind"]))
        if action == "replace":
            node[last] = data.draw(JUNK)
        elif action == "delete" and last in (node if isinstance(node, dict) else range(len(node))):
            del node[last]
        elif isinstance(node, dict):
            node[data.draw(st.sampled_from(KEYS))] = data.draw(JUNK)
    overrides = [
        f"{data.draw(st.sampled_from(KEYS))}.{data.draw(st.sampled_from(KEYS))}={data.draw(st.text(max_size=5))}"
    ]
    try:
        Experiment.from_tree(tree, data.draw(st.sampled_from([[], overrides])))
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017 - success is fine too


@given(st.text(max_size=60))
@settings(deadline=None)
def test_any_text_is_yaml_or_a_config_error(text: str) -> None:
    try:
        parse_yaml(text, "text")
    except ConfigError as error:
        assert str(error).startswith("text:")  # noqa: PT017 - success is fine too


# --------------------------------------------------------------------------------------------------------- schema


def sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for argument in get_args(annotation) for section in sections(argument)]


def keys(section: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Every key a file may hold -> its field; a union's sections are told apart by kind."""
    found: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        found[prefix + name] = field
        inner = sections(field.annotation)
        for option in inner:
            kind = f"({option.model_fields['kind'].default})" if len(inner) > 1 else ""
            found |= keys(option, f"{prefix}{name}{kind}.")
    return found


def test_every_key_is_described() -> None:
    assert [
        key for key, field in keys(Experiment).items() if not field.description and key.split(".")[-1] != "kind"
    ] == []


def test_keys_and_defaults_are_the_golden_list() -> None:
    """Keys and defaults are promises to users: change `golden/config_keys.txt` only on purpose."""
    lines = []
    for key, field in keys(Experiment).items():
        default = "required" if field.is_required() else field.get_default(call_default_factory=True)
        lines.append(f"{key} = {'{...}' if isinstance(default, BaseModel) else json.dumps(default)}")
    golden = Path(__file__).parent / "golden" / "config_keys.txt"
    assert "\n".join(lines) + "\n" == golden.read_text(encoding="utf-8")


def test_schema_knows_extends_and_every_description() -> None:
    schema = Experiment.json_schema()
    text = json.dumps(schema)
    assert "extends" in schema["properties"]
    assert '"required": ["kind"]' not in text
    assert schema["description"] == "One experiment: data, model, objective, training, evaluation."
    assert all(json.dumps(field.description) in text for field in keys(Experiment).values() if field.description)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"kind": "classifier", "features": {"kind": "bag_of_words"}}, ("features", "unary")),
        (
            {"kind": "energy_network", "features": {"kind": "bag_of_words"}, "energy": {"kind": "spen"}},
            ("features", "unary", "energy"),
        ),
    ],
)
def test_a_stage_trains_all_that_the_model_has(model: dict[str, Any], expected: tuple[str, ...]) -> None:
    experiment = Experiment.model_validate(
        {"name": "x", "data": {"name": "bibtex"}, "model": model, "training": {"stages": [{"name": "all"}]}}
    )
    assert [stage.trains for stage in experiment.stages] == [expected]
    again = Experiment.model_validate(experiment.model_dump(mode="json"))
    assert again.stages == experiment.stages
