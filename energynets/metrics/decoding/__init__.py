"""Scores -> sets of labels, chosen on validation."""

from energynets.metrics.decoding.decoder import Decoder
from energynets.metrics.decoding.expected_f1 import ExpectedF1
from energynets.metrics.decoding.global_threshold import GlobalThreshold
from energynets.metrics.decoding.per_label import PerLabel

__all__ = ["DECODERS", "Decoder", "ExpectedF1", "GlobalThreshold", "PerLabel"]

DECODERS: dict[str, type[Decoder]] = {decoder.kind: decoder for decoder in (GlobalThreshold, PerLabel, ExpectedF1)}
