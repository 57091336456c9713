"""`energynets data list|info|fetch|make`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from energynets.cli.options import Json, Quiet, print_json

app = typer.Typer(help="Named data sets, and planted ones.", rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="NAME", help="As `energynets data list` has it.", show_default=False)]
Root = Annotated[
    str | None,
    typer.Option(help="Data folder; default $ENERGYNETS_DATA, else ~/.cache/energynets.", show_default=False),
]


@app.command("list")
def list_sets(root: Root = None, as_json: Json = False) -> None:
    """List the named data sets, their sizes, and whether they are in the data folder.

    Example: energynets data list
    """
    from energynets.data.catalogue import CATALOGUE
    from energynets.data.load import data_root

    folder = data_root(root)
    infos = [entry.info(folder) for entry in CATALOGUE.values()]
    if as_json:
        print_json(infos)
        return
    typer.echo(f"{'name':<16}{'train':>10}{'test':>10}{'features':>10}{'labels':>9}  {'here':<6}to get it")
    for info in infos:
        sizes = info["documents"]
        features = "text" if info["features"] is None else f"{info['features']:,}"
        here, get = ("yes", "") if info["present"] else ("no", "data fetch" if info["fetchable"] else "see data info")
        counts = f"{sizes.get('train', 0):>10,}{sizes.get('test', 0):>10,}{features:>10}{info['labels']:>9,}"
        typer.echo(f"{info['name']:<16}{counts}  {here:<6}{get}".rstrip())
    typer.echo(f"data folder: {folder}")


@app.command()
def info(name: Name, root: Root = None, as_json: Json = False) -> None:
    """Say what a named data set is, where it comes from, under which terms, and where its files belong.

    Example: energynets data info bibtex
    """
    from energynets.data.catalogue import find
    from energynets.data.load import data_root

    found = find(name).info(data_root(root))
    if as_json:
        print_json(found)
        return
    documents = ", ".join(f"{count:,} {split}" for split, count in found["documents"].items())
    rows = [
        (found["name"], found["task"]),
        ("documents", documents),
        ("features", "raw text" if found["features"] is None else f"{found['features']:,}"),
        ("labels", f"{found['labels']:,}"),
        ("format", found["format"]),
        ("source", found["source"]),
        ("citation", found["citation"]),
        ("terms", found["terms"]),
        *(("file", f"{file['path']}: {file['found'] or 'not here'}") for file in found["files"]),
        *([] if found["present"] else [("get it", found["how"])]),
    ]
    for key, text in rows:
        typer.echo(f"{key:<16}{text}")


@app.command()
def fetch(name: Name, root: Root = None, quiet: Quiet = False) -> None:
    """Download a named data set into the data folder: resumed where it stopped, checked, in place only when whole.

    Example: energynets data fetch bibtex
    """
    from energynets.cli.bars import Bars
    from energynets.data.catalogue import find
    from energynets.data.load import data_root

    entry = find(name)
    with Bars(quiet=quiet) as bars:
        paths = entry.fetch(data_root(root), progress=lambda done, total: bars.show(f"fetching {name}", done, total))
    for path in paths:
        typer.echo(str(path))


@app.command()
def make(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A key of data.planted, e.g. num_labels=1000; repeatable."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write planted data to files: documents of a known distribution, whose exact posterior no model beats.

    Example: energynets data make planted-1k --set num_labels=1000 --set num_documents=20000
    """
    from energynets.cli.bars import Bars
    from energynets.config import Experiment
    from energynets.data.planted import PlantedSpec, write_planted

    tree: dict[str, Any] = {"name": "planted", "data": {"planted": {}}, "model": {"kind": "label_frequency"}}
    settings = [f"data.planted.{override}" for override in overrides or []]
    planted = Experiment.from_tree(tree, settings, source="data make").data.planted
    assert planted is not None
    with Bars(quiet=quiet) as bars:
        write_planted(PlantedSpec(**planted.model_dump()), folder, progress=lambda d, t: bars.show("drawing", d, t))
    typer.echo(
        f"{folder}: train with data: "
        f"{{root: {folder.resolve()}, format: tsv, train: train.tsv.gz, test: test.tsv.gz, labels: labels.txt}}"
    )
