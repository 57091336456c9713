"""More than one process: labels cut into shards, batches into shares, each in a dimension of one mesh."""

from energynets.parallel.shard import WHOLE, LabelShard, label_dimension

__all__ = ["WHOLE", "LabelShard", "label_dimension"]
