"""What makes a comparison fair: the same documents, the same splits, the same way of measuring."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from energynets.errors import ConfigError

if TYPE_CHECKING:
    from energynets.config import Experiment


def check_fair(experiments: Sequence[Experiment], seeds: tuple[int, ...]) -> None:
    """Names and seeds of their own, one way of measuring.

    Raises:
        ConfigError: what differs, or seeds that are none.
    """
    from energynets.config import SEED_LIMIT

    if not experiments:
        raise ConfigError("compare: no experiment given")
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ConfigError(f"compare: expected one or more different seeds, got {list(seeds)}")
    if max(seeds) >= SEED_LIMIT:
        raise ConfigError(f"compare: expected seeds from 0 to {SEED_LIMIT - 1}, got {max(seeds)}")
    names = [experiment.name for experiment in experiments]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"compare: {names.count(name)} experiments are called {name!r}; give each its own `name`")
    first = experiments[0]
    for experiment in experiments[1:]:
        for key in ("ks", "propensity", "threshold_rule", "decoding", "top", "observed", "draws"):
            ours, theirs = getattr(experiment.evaluation, key), getattr(first.evaluation, key)
            if ours != theirs:
                raise ConfigError(
                    f"compare: {experiment.name} is measured otherwise than {first.name}: "
                    f"evaluation.{key} {ours}, not {theirs}"
                )


SOURCE: tuple[str, ...] = (
    "name",
    "format",
    "train",
    "validation",
    "test",
    "labels",
    "columns",
    "root",
    "validation_share",
    "test_share",
)
SOURCE += ("split_seed", "max_documents")


def check_same_documents(experiments: Sequence[Experiment]) -> None:
    """Where the data sections differ, read the data of each and compare fingerprints before anything is trained."""
    sources: dict[str, Experiment] = {}
    for experiment in experiments:
        settings = experiment.data.model_dump(mode="json")
        sources.setdefault(json.dumps([settings[key] for key in (*SOURCE, "planted", "missing")]), experiment)
    if len(sources) < 2:
        return
    from energynets.data.load import load_dataset

    found: dict[str, Mapping[str, Any]] = {}
    for experiment in sources.values():
        data = experiment.data
        planted = data.planted.model_dump() if data.planted else None
        dataset = load_dataset(
            **{key: getattr(data, key) for key in SOURCE},
            planted=planted,
            missing=data.missing.fraction if data.missing else 0.0,
            missing_seed=data.missing.seed if data.missing else 0,
        )
        found[experiment.name] = {"data": asdict(dataset.fingerprint)}
        check_fingerprints(found)


def check_fingerprints(results: Mapping[str, Mapping[str, Any]]) -> None:
    """The newest result against the first.

    Raises:
        ConfigError: other documents or splits.
    """
    names = list(results)
    first, last = results[names[0]]["data"], results[names[-1]]["data"]
    if first["sha256"] != last["sha256"]:
        raise ConfigError(
            f"compare: {names[-1]} has other documents or splits than {names[0]}: "
            f"sha256 {last['sha256'][:12]} ({_sizes(last)}), not {first['sha256'][:12]} ({_sizes(first)})"
        )


def _sizes(data: Mapping[str, Any]) -> str:
    sizes = ", ".join(f"{count:,} {split}" for split, count in data.get("sizes", {}).items())
    return f"{data.get('name', '')}: {sizes}, {data.get('labels')} labels"
