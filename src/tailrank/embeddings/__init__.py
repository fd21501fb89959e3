"""Table representations, one file each."""

from tailrank.embeddings.full import EmbeddingTables, Pooled

__all__ = ["EmbeddingTables", "Pooled"]
