"""What is on disk -> inputs and sparse labels: knows nothing of models."""

from energynets.data.batches import Batch, CachedFeatures, SparseBatch, TokenBatch, batches
from energynets.data.dataset import Documents, Fingerprint, MultiLabelDataset, TokenSequences
from energynets.data.load import data_root, load_dataset

__all__ = [
    "Batch",
    "CachedFeatures",
    "Documents",
    "Fingerprint",
    "MultiLabelDataset",
    "SparseBatch",
    "TokenBatch",
    "TokenSequences",
    "batches",
    "data_root",
    "load_dataset",
]
