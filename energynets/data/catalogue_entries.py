"""What is known of each data set of the catalogue: facts alone, no behaviour beyond finding a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_MULAN = "https://raw.githubusercontent.com/tsoumakas/mulan/master/data/multi-label"
_GOEMOTIONS = "https://raw.githubusercontent.com/google-research/google-research/master/goemotions/data"
_XMC = "http://manikvarma.org/downloads/XC/XMLRepository.html"


@dataclass(frozen=True)
class DataFile:
    """A file of a set.

    Args:
        path: where it lies under the data folder; with `.gz` added will do as well.
        urls: plain addresses of exactly this file.
        sha256: of its contents as `urls` give them, uncompressed but for archives.
        other_names: names under which its source hands it out, in the same folder.
    """

    path: str
    urls: tuple[str, ...] = ()
    sha256: tuple[str, ...] = ()
    other_names: tuple[str, ...] = ()

    def find(self, root: Path) -> Path | None:
        """The file under the data folder, plain or gzip."""
        folder, name = (root / self.path).parent, Path(self.path).name
        names = [name, *self.other_names]
        return next((path for n in names for path in (folder / n, folder / f"{n}.gz") if path.is_file()), None)


@dataclass(frozen=True)
class Facts:
    """A data set as published.

    Args:
        format: name of its reader; `options` are further arguments of it.
        splits: split -> file.
        documents: split -> number of documents.
        features: D; None for raw text.
        num_labels: L.
        labels: file of the label set.
        source: page that describes it.
        get: what to do where there is no plain address.
    """

    name: str
    task: str
    format: str
    splits: Mapping[str, DataFile]
    documents: Mapping[str, int]
    features: int | None
    num_labels: int
    source: str
    citation: str
    terms: str
    labels: DataFile | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    get: str = ""

    @property
    def files(self) -> tuple[DataFile, ...]:
        return (*self.splits.values(), *([self.labels] if self.labels is not None else []))


def _mulan(
    name: str,
    task: str,
    citation: str,
    sizes: tuple[int, int, int, int],
    files: tuple[tuple[str, str], tuple[str, str], tuple[str, str]],
    *,
    folder: str = "",
    xml_names: tuple[str, ...] = (),
) -> Facts:
    """A Mulan set: (train, test, D, L), then name and sha256 of training, test and label file."""

    def data_file(file: tuple[str, str], names: tuple[str, ...]) -> DataFile:
        urls = tuple(f"{_MULAN}/{folder or name}/{n}" for n in names)
        return DataFile(f"{name}/{file[0]}", urls, (file[1],))

    train, test, xml = files
    return Facts(
        name=name,
        task=task,
        format="mulan_arff",
        splits={"train": data_file(train, (train[0],)), "test": data_file(test, (test[0],))},
        documents={"train": sizes[0], "test": sizes[1]},
        features=sizes[2],
        num_labels=sizes[3],
        source=f"https://github.com/tsoumakas/mulan/tree/master/data/multi-label/{folder or name}",
        citation=citation,
        terms="none stated; research use, cite the source",
        labels=data_file(xml, (xml[0], *xml_names)),
    )


def _xmc(name: str, task: str, citation: str, stem: str, sizes: tuple[int, int, int, int]) -> Facts:
    """A bag-of-words set of the Extreme Classification Repository: (train, test, D, L)."""
    return Facts(
        name=name,
        task=task,
        format="xmc",
        splits={
            split: DataFile(f"{name}/{split}.txt", other_names=(f"{stem}_{split}.txt",)) for split in ("train", "test")
        },
        documents={"train": sizes[0], "test": sizes[1]},
        features=sizes[2],
        num_labels=sizes[3],
        source=_XMC,
        citation=f"{citation}; Bhatia et al., The extreme classification repository, 2016",
        terms="none stated; research use, cite the set and the repository",
        get="the repository hands it out through Google Drive, which has no plain address: download its "
        f"`BoW Features` archive from the page and unpack it (the files may keep the names {stem}_train.txt and "
        f"{stem}_test.txt)",
    )


ENTRIES = (
    _mulan(
        "bibtex",
        "tags of bookmarks and publications",
        "Katakis, Tsoumakas, Vlahavas, Multilabel text classification for automated tag suggestion, ECML/PKDD 2008 "
        "Discovery Challenge",
        (4880, 2515, 1836, 159),
        (
            ("bibtex-train.arff", "8dcc9de6e0b2cebaec8c1f4fac78431adeeb73cfd3ab879b530a66d366e59174"),
            ("bibtex-test.arff", "9b03329cde64d3f994bdf7fbbac3f3b10fe185c311cb9ae725475f59c7f3f922"),
            ("bibtex.xml", "08fe20013c1e75dcf1888c185f5187c95e76495b8518ce289b4d3afce38d1232"),
        ),
    ),
    _mulan(
        "delicious",
        "tags of web pages",
        "Tsoumakas, Katakis, Vlahavas, Effective and efficient multilabel classification in domains with large number "
        "of labels, MMD 2008",
        (12920, 3185, 500, 983),
        (
            ("delicious-train.arff", "030186cdb542ebdd32052fcdbb1ebe30115b3a22518c1b4b198c45eb827aebe1"),
            ("delicious-test.arff", "2dfb01723a819914b0ca83361177ed413ce3f2169851d9f228d4692915d63944"),
            ("delicious.xml", "4e0c0f93c7d86a39b9fca4aaefaa00e9428f2c80277732dfbf03ca48e2c14da2"),
        ),
    ),
    _mulan(
        "tmc2007-500",
        "problems in aviation safety reports",
        "Srivastava, Zane-Ulman, Discovering recurring anomalies in text reports regarding complex space systems, "
        "IEEE Aerospace 2005",
        (21519, 7077, 500, 22),
        (
            ("tmc2007-500-train.arff", "edfe7b7615c6f80e54c92a214437610d1ae36560c5cc6c4253b51c434d258273"),
            ("tmc2007-500-test.arff", "b24f9c3f1eba77c9da0bbaff093ba41d331b7351be0167a8e1e3852c62e25e38"),
            ("tmc2007-500.xml", "cb6a67c8ae72fd9b47d89f77aa5b7f6cafb4ba9c20b1124c65a95a3f2caec38d"),
        ),
        folder="tmc2007",
        xml_names=("tmc2007.xml",),
    ),
    _mulan(
        "corel5k",
        "words of images",
        "Duygulu, Barnard, de Freitas, Forsyth, Object recognition as machine translation, ECCV 2002",
        (4500, 500, 499, 374),
        (
            ("Corel5k-train-sparse.arff", "19eb253c447144bea74ffa86b4731a56022addae2ba7d0aab72ad07fdc02e9b3"),
            ("Corel5k-test-sparse.arff", "e8f8e9cd052c43ba7bdfdf99d242f461fc8c2a03163466d921e576887b51d8a7"),
            ("Corel5k.xml", "54ef6a6ccb7ca9b77524052b34b306d5d501661a5609b9d1cc7085b2b597679d"),
        ),
    ),
    _mulan(
        "medical",
        "ICD-9-CM codes of radiology notes",
        "Pestian et al., A shared task involving multi-label classification of clinical free text, BioNLP 2007",
        (333, 645, 1449, 45),
        (
            ("medical-train.arff", "c764f45756ab1c553b8b4eaaf5605a5610a43bbbcf37492d0f1a12bf9c9e2244"),
            ("medical-test.arff", "6be472e75a6c0b0916187f343a398011b1b26f8f0ddc682c575312ad3532f6c4"),
            ("medical.xml", "51fa9d5c09e48caff3f0a0c75db1c9aa85944f8e35451f3ad8bd56fc422286ce"),
        ),
    ),
    _mulan(
        "yeast",
        "functions of genes",
        "Elisseeff, Weston, A kernel method for multi-labelled classification, NIPS 2001",
        (1500, 917, 103, 14),
        (
            ("yeast-train.arff", "e759dc991ff54694a4ff9c4314f3be0d6fd2b1994a4b563f57e416394c6aebbd"),
            ("yeast-test.arff", "4aaac102bff9669a765bf0b378602e5cc8c3b181048282e2f003117b496d552a"),
            ("yeast.xml", "c3056cc26444b5158b1588d1b73bec9c45429e10f0957ad085903423cb81f247"),
        ),
    ),
    _mulan(
        "scene",
        "scenes in images",
        "Boutell, Luo, Shen, Brown, Learning multi-label scene classification, Pattern Recognition 37(9), 2004",
        (1211, 1196, 294, 6),
        (
            ("scene-train.arff", "b53ba93bdf412de922e3960389bcee24744fa3e872ce610511fc1d750888b64d"),
            ("scene-test.arff", "ea38d20296b3ff7e220f477a3b802a9bcb2d768881fe6ee163efbc97ea527a42"),
            ("scene.xml", "55d8b247b949ad5c52e5a73d8c6775ec6e5469ce9682465b45b333b68ee4bcc5"),
        ),
    ),
    _mulan(
        "emotions",
        "emotions in music",
        "Trohidis, Tsoumakas, Kalliris, Vlahavas, Multilabel classification of music into emotions, ISMIR 2008",
        (391, 202, 72, 6),
        (
            ("emotions-train.arff", "bbe704106c79bb8fb99c1d1d2e9bde081d6a2daeb01f100862f11fd91a3c1f98"),
            ("emotions-test.arff", "f13d4b746b7b5c8eb484bd751d6ac463d4560dff998a93516a5c1fe35daf6c8f"),
            ("emotions.xml", "dbce8e6ccbbb2fcbfd9e9edbb230d7ed12692c6e13f59fdbc0161fa9b6cf2dc0"),
        ),
    ),
    Facts(
        name="reuters",
        task="topics of newswire stories, ModApte split, 90 topics",
        format="reuters",
        splits={
            "train": DataFile(
                "reuters21578/reuters21578.tar.gz",
                (
                    "https://archive.ics.uci.edu/ml/machine-learning-databases/reuters21578-mld/reuters21578.tar.gz",
                    "https://kdd.ics.uci.edu/databases/reuters21578/reuters21578.tar.gz",
                ),
                ("3bae43c9b14e387f76a61b6d82bf98a4fb5d3ef99ef7e7075ff2ccbcf59f9d30",),
            )
        },
        documents={"train": 7770, "test": 3019},
        features=None,
        num_labels=90,
        source="https://archive.ics.uci.edu/dataset/137/reuters+21578+text+categorization+collection",
        citation="Lewis, Reuters-21578 text categorization collection, Distribution 1.0, 1997",
        terms="copyright Reuters Ltd.; free to distribute for research only; name the collection when publishing",
    ),
    Facts(
        name="goemotions",
        task="emotions in short comments",
        format="tsv",
        splits={
            "train": DataFile(
                "goemotions/train.tsv",
                (f"{_GOEMOTIONS}/train.tsv",),
                ("1c254a142be5c00e80d819b9ae1bbd36d94b2eeb8f4b1271846508d57e57d9c5",),
            ),
            "validation": DataFile(
                "goemotions/dev.tsv",
                (f"{_GOEMOTIONS}/dev.tsv",),
                ("575489c079c9de1097062a01738f998590d6b7ead66dd1c9fd1d2ba01fd8bc62",),
            ),
            "test": DataFile(
                "goemotions/test.tsv",
                (f"{_GOEMOTIONS}/test.tsv",),
                ("0587b2dd8b27b97352adbfc3fb083d46005c8946657fdc2b1ca8b1cc7f1f8be4",),
            ),
        },
        documents={"train": 43410, "validation": 5426, "test": 5427},
        features=None,
        num_labels=28,
        source="https://github.com/google-research/google-research/tree/master/goemotions",
        citation="Demszky et al., GoEmotions: a dataset of fine-grained emotions, ACL 2020",
        terms="CC BY 4.0",
        labels=DataFile(
            "goemotions/emotions.txt",
            (f"{_GOEMOTIONS}/emotions.txt",),
            ("45c3ef86782d2a4d7fedcd6d8c111aa0d0e94720689bd164fac94fefb4495a89",),
        ),
        options={"columns": ("text", "labels", "id")},
    ),
    Facts(
        name="citeulike-t",
        task="tags of scientific articles; tags of 5 articles or more, every fifth article is for testing",
        format="xmc",
        splits={
            "train": DataFile(
                "citeulike-t/xmc-train.txt",
                sha256=("2d5896860be1bde5f20d5498ed916362b60d8fc948d8fbeb791b2158703fe596",),
            ),
            "test": DataFile(
                "citeulike-t/xmc-test.txt", sha256=("8c8e2e6c0c13338e83ba4c54bd6634e23fb8dd39c6b47e25ddb79ac278be6858",)
            ),
        },
        documents={"train": 20780, "test": 5195},
        features=20000,
        num_labels=8311,
        source="https://github.com/js05212/citeulike-t",
        citation="Wang, Chen, Li, Collaborative topic regression with social regularization for tag recommendation, "
        "IJCAI 2013",
        terms="none stated; research use, cite the source",
        labels=DataFile(
            "citeulike-t/xmc-labels.txt", sha256=("71800da3070c8577d3177797fd512aab10b3d1d2b5717ccf76193bb01d6360a3",)
        ),
        get="its source has no split and another format: from mult.dat, tag-item.dat and tags.dat write the tables of "
        "raw word counts in XMC format, labels the tags of 5 articles or more in tag order, test the articles whose "
        "number from 0 leaves remainder 4 when divided by 5, training the rest, both in order",
    ),
    _xmc(
        "EURLex-4K",
        "EUROVOC concepts of European law",
        "Loza Mencía, Fürnkranz, Efficient pairwise multilabel classification for large-scale problems in the legal "
        "domain, ECML/PKDD 2008",
        "eurlex",
        (15539, 3809, 5000, 3993),
    ),
    _xmc(
        "Wiki10-31K",
        "tags of Wikipedia articles",
        "Zubiaga, Enhancing navigation on Wikipedia with social tags, 2012",
        "wiki10",
        (14146, 6616, 101938, 30938),
    ),
    _xmc(
        "AmazonCat-13K",
        "categories of products",
        "McAuley, Leskovec, Hidden factors and hidden topics, RecSys 2013",
        "amazonCat",
        (1186239, 306782, 203882, 13330),
    ),
    _xmc(
        "Amazon-670K",
        "products bought together",
        "McAuley, Leskovec, Hidden factors and hidden topics, RecSys 2013",
        "amazon",
        (490449, 153025, 135909, 670091),
    ),
)
