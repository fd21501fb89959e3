"""Table representations, one file each."""

from tailrank.embeddings.full import FACTOR_STD, EmbeddingTables, Pooled, SequenceRows

__all__ = ["FACTOR_STD", "EmbeddingTables", "Pooled", "SequenceRows"]
