"""x -> f, and the cache of f."""

from __future__ import annotations

from energynets.features.bag_of_words import BagOfWords
from energynets.features.cache import FeatureCache
from energynets.features.kim_cnn import KimCNN
from energynets.features.network import FeatureNetwork
from energynets.features.observing import Observing
from energynets.features.xml_cnn import XMLCNN

FEATURES: dict[str, type[FeatureNetwork]] = {"bag_of_words": BagOfWords, "kim_cnn": KimCNN, "xml_cnn": XMLCNN}

__all__ = ["FEATURES", "XMLCNN", "BagOfWords", "FeatureCache", "FeatureNetwork", "KimCNN", "Observing"]
