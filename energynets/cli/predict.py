"""`energynets predict`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from energynets.cli.json_lines import read_json_lines
from energynets.cli.known_labels import listed_labels, read_known_column
from energynets.cli.options import RunArgument
from energynets.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from energynets.data.dataset import Documents
    from energynets.metrics import TopScores
    from energynets.training import TrainedRun


def predict(
    run: RunArgument,
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Text, a document a line (- is stdin), or a data file; .jsonl with known labels.",
            show_default=False,
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="Labels of each document.")] = 5,
    file_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Reader of the file, or jsonl; default: .jsonl by its name, lines of text, or the run's own format.",
        ),
    ] = None,
    known: Annotated[
        bool, typer.Option("--known", help="The labels in INPUT are known; on lines of text they stand before a tab.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON line for each document.")] = False,
) -> None:
    r"""Print the most probable labels of new documents; * marks those of the run's predicted set.

    For an energy network, also how far inference got: each document's certificate (E(y) - min E is at most that, where
    the energy is convex) and the norm of dE/dy. Both are of all labels at once: with model.label_chunk or
    model.shortlist there are none.

    Labels known beforehand come as JSON lines, {"text": "wheat exports", "known": {"wheat": true, "corn": false}}
    (for a table, "features": {"column": value} instead of "text"): they are printed as known, and the rest is ranked.
    With --known they are the labels of a data file, or of lines of text a column: labels, a tab, the text. There ! is
    of a label known to be false, and a header line may name other columns: id, known (or labels), text.

    Example: echo "wheat exports rise" | energynets predict runs/reuters-spen - --top 3

    Example: printf 'wheat,!corn\twheat exports rise' | energynets predict runs/reuters-spen - --known
    """
    from energynets.cli.certificates import Certificates
    from energynets.training import load_run
    from energynets.training import predict as score

    trained = load_run(run)
    inputs, facts = _read(trained, source, file_format, known)
    certificates = Certificates()
    scores = score(trained, inputs, top=max(top, trained.kept), on_inference=certificates, observed=facts)
    for number, found in enumerate(_documents(trained, scores, top)):
        told = {} if facts is None else _told(trained, facts, number)
        if as_json:
            row: dict[str, Any] = {"document": number, **({} if facts is None else {"known": told}), "labels": found}
            if certificates.values:
                row["certificate"] = certificates.values[number]
            elif certificates.note is not None:
                row["certificate"] = certificates.note
            if certificates.gradient_norms:
                row["gradient_norm"] = certificates.gradient_norms[number]
            typer.echo(json.dumps(row, ensure_ascii=False))
        else:
            labels = (f"{label['name']} {label['score']:.3f}{'*' if label['predicted'] else ''}" for label in found)
            names = ", ".join(name if true else f"not {name}" for name, true in told.items())
            said = f"known: {names}" if names else None
            typer.echo("\t".join(filter(None, (str(number + 1), said, "  ".join(labels), *certificates.of(number)))))


def _documents(trained: TrainedRun, scores: TopScores, top: int) -> Iterator[list[dict[str, Any]]]:
    columns = scores.indices, scores.values, trained.decoder.choose(scores)
    for labels, values, chosen in zip(*(column[:, :top].tolist() for column in columns), strict=True):
        yield [
            {
                "name": trained.label_name(label),
                "id": label,
                "score": round(value, 6),
                "predicted": predicted,
            }
            for label, value, predicted in zip(labels, values, chosen, strict=True)
            if value >= 0  # a known label is below
        ]


def _told(trained: TrainedRun, known: csr_array, document: int) -> dict[str, bool]:
    here = slice(known.indptr[document], known.indptr[document + 1])
    return {
        trained.label_name(label): value > 0
        for label, value in zip(known.indices[here].tolist(), known.data[here].tolist(), strict=True)
    }


def _read(trained: TrainedRun, source: str, file_format: str | None, known: bool) -> tuple[Any, csr_array | None]:
    """Documents of the kind the run was trained on, and what is known of their labels, where the file may say so."""
    from energynets.data.dataset import TextDocuments

    where = "standard input" if source == "-" else source
    takes_text = trained.preparation.raw == "text" or trained.experiment.data.planted is not None
    inputs: Any
    facts = None
    if file_format == "jsonl" or (file_format is None and source.endswith(".jsonl")):
        if known:
            raise ConfigError("predict: --known: JSON lines have a field `known` of their own; leave it out")
        inputs, facts = read_json_lines(trained, _lines(source), where)
    elif known and takes_text and file_format in (None, "tsv"):
        inputs, facts = read_known_column(trained, _numbered_lines(source), where)
    elif file_format is None and takes_text:
        inputs = TextDocuments(tuple(_lines(source)))
    elif source == "-":
        raise ConfigError("predict: - reads lines of text, or jsonl; give a data file as INPUT, and its --format")
    else:
        documents = _read_file(trained, source, file_format, known)
        inputs, facts = documents.inputs, listed_labels(trained, documents, where) if known else None
    return _as_trained(trained, inputs), facts


def _as_trained(trained: TrainedRun, inputs: Any) -> Any:
    """Words of planted data are told by their names."""
    from energynets.data.dataset import TextDocuments

    planted = trained.experiment.data.planted
    if planted is None or not isinstance(inputs, TextDocuments):
        return inputs
    from energynets.data.planted import PlantedSpec, tokens_of_texts

    return tokens_of_texts(PlantedSpec(**planted.model_dump()), inputs)


def _read_file(trained: TrainedRun, source: str, file_format: str | None, known: bool) -> Documents:
    from energynets.data.catalogue import CATALOGUE
    from energynets.data.load import data_root, find_file
    from energynets.data.readers import READERS

    settings = trained.experiment.data
    entry = CATALOGUE.get(settings.name) if settings.format is None and settings.name else None
    own = entry.facts.format if entry is not None else settings.format
    name = file_format or own
    if name is None:
        raise ConfigError(f"predict: --format: expected the reader of {source}, one of {', '.join(sorted(READERS))}")
    if name not in READERS:
        raise ConfigError(f"predict: --format: unknown format {name!r}{nearest(name, [*READERS, 'jsonl'])}")
    options: dict[str, Any] = {}
    if name == own and entry is not None:
        options |= entry.facts.options
        if entry.facts.labels is not None:
            options["labels"] = entry.locate(entry.facts.labels, data_root(settings.root))
    elif name == own and settings.labels is not None:
        options["labels"] = find_file(settings.labels, settings.root)
    elif name == "tsv" and trained.label_names is not None:
        options["label_names"] = trained.label_names
    if name == own == "tsv" and settings.columns is not None:
        options["columns"] = settings.columns
    if name == "reuters":
        options["split"] = "test"
    if known and name in ("svmlight", "xmc_raw"):  # whose files do not say how many labels there are
        options["num_labels"] = int(trained.result.data["labels"])
    return READERS[name](Path(source), **options)


def _numbered_lines(source: str) -> Iterator[tuple[int, str]]:
    from energynets.data.readers.source import lines

    return enumerate(_lines(source), 1) if source == "-" else lines(Path(source))


def _lines(source: str) -> list[str]:
    """One document a line, which ends at a newline and nowhere else, as the readers have it."""
    try:
        content = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise DataError(f"{source}: cannot read: {error.strerror}") from None
    where = "standard input" if source == "-" else source
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 at byte {error.start}") from None
    if not lines[-1]:  # what follows the last newline
        lines.pop()
    if not lines:
        raise DataError(f"{where}: no documents; expected one a line")
    return [line.removesuffix("\r") for line in lines]
