"""The data section: which documents, how they are split, and how they become a model's inputs."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from energynets.config_models import Above0, From0, Positive, Section, Share

Format = Literal["mulan_arff", "xmc", "xmc_pair", "xmc_raw", "tsv", "reuters", "svmlight", "npz"]


class Text(Section):
    """How raw text becomes tokens; the vocabulary is built from training documents only."""

    vocabulary_size: int = Field(
        default=30_000, ge=3, description="most frequent training words kept, two reserved ids included"
    )
    min_count: Positive = Field(default=2, description="a word must occur this often in training")
    max_tokens: Positive = Field(default=500, description="S: longer documents are cut")
    lowercase: bool = Field(default=True, description="read all words in lower case")


class Planted(Section):
    """A planted data set (`energynets data make`): labels and words of a known joint distribution."""

    num_labels: Positive = Field(default=64, description="L")
    num_documents: Positive = Field(default=4_000, description="training documents, validation included")
    num_test_documents: Positive = Field(default=1_000, description="test documents")
    vocabulary_size: int = Field(default=2_000, ge=6, description="V, two reserved ids included")
    mean_length: Above0 = Field(default=30.0, description="mean words a document")
    mean_labels: Above0 = Field(default=3.0, description="mean labels a document")
    seed: int = Field(default=0, ge=0, description="of the distribution and its samples; not the experiment's seed")
    dependence: float = Field(
        default=0.6,
        ge=0,
        le=1,
        description="mean chance that a label turns its child on; 0: independent labels",
    )
    leak: From0 = Field(default=0.05, description="spontaneous rate of an inner label relative to its block's root")
    evidence: From0 = Field(default=1.5, description="mean phrases about a label that is on")
    noise: Above0 = Field(default=4.0, description="mean phrases of a document about labels drawn at random")
    block_size: Positive = Field(default=4, description="labels of a tree")
    branching: Positive = Field(default=3, description="children of a label in its tree")
    label_zipf: From0 = Field(default=1.0, description="exponent by which label frequencies fall with rank")
    word_zipf: From0 = Field(default=1.0, description="exponent by which word frequencies fall with rank")
    phrases_per_label: Positive = Field(default=8, description="phrases that a label owns")
    phrase_length: Positive | None = Field(
        default=None,
        description="words of a phrase; with 2 or more only their order tells; default: what fits V",
    )
    allow_empty: bool = Field(default=False, description="keep documents without labels")


class Missing(Section):
    """Labels taken out of training documents, to see what learning from the others does; validation and test stay."""

    fraction: Share = Field(default=0.5, description="chance that a label of a training document is taken out")
    seed: int = Field(default=0, ge=0, description="of the draw")


class Data(Section):
    """Which documents: a catalogue `name`, or `format` with files, or `planted`."""

    name: str | None = Field(
        default=None, min_length=1, description="catalogue name (`energynets data list`), or a name for the files given"
    )
    format: Format | None = Field(default=None, description="reader of `train` and `test`")
    train: str | None = Field(
        default=None, min_length=1, description="path of the training file (relative to the data folder)"
    )
    validation: str | None = Field(
        default=None,
        min_length=1,
        description="path of a validation file; else `validation_share` is taken from training",
    )
    test: str | None = Field(default=None, min_length=1, description="path of the test file")
    labels: str | None = Field(
        default=None, min_length=1, description="path of the label set (Mulan XML, or one name a line)"
    )
    columns: tuple[Literal["id", "labels", "text"], ...] | None = Field(
        default=None, description="what the columns of a tsv file hold; default: a header line or the cells tell"
    )
    planted: Planted | None = Field(default=None, description="make data of a known distribution")
    root: str | None = Field(
        default=None, min_length=1, description="data folder; else $ENERGYNETS_DATA, else ~/.cache/energynets"
    )
    validation_share: Share = Field(
        default=0.1, description="share of training documents held out, where no validation file is given"
    )
    test_share: Share = Field(
        default=0.2, description="share of all documents held out, where the set has no test file"
    )
    split_seed: int = Field(default=0, ge=0, description="of the splits that are drawn")
    inputs: Literal["auto", "tokens", "counts", "tfidf"] = Field(
        default="auto", description="auto: text and tokens stay sequences, tables stay tables"
    )
    scaling: Literal["auto", "none", "standardize", "unit_norm"] = Field(
        default="auto", description="of tables; auto standardises dense real-valued ones with training statistics"
    )
    text: Text = Field(default=Text(), description="how raw text becomes tokens")
    vectors: str | None = Field(
        default=None, min_length=1, description="GloVe or word2vec text file that initialises the embedding"
    )
    missing: Missing | None = Field(default=None, description="take labels out of training; null: none")
    max_documents: Positive | None = Field(
        default=None, description="keep only the first this many documents of each split"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        named = self.name is not None and self.format is None and self.planted is None
        if sum([self.planted is not None, self.format is not None, named]) != 1:
            raise ValueError("expected one source: a catalogue `name`, or `format` with `train`, or `planted`")
        if self.format is not None and self.train is None:
            raise ValueError("train: missing; `format` needs the path of the training file")
        if self.format is None:
            given = [key for key in ("train", "validation", "test", "labels") if getattr(self, key) is not None]
            if given:
                raise ValueError(f"{given[0]}: a path needs `format`, the reader of the file")
        return self
