"""A trained model becomes something that scores: the artifact on disk and the rankers."""

from tailrank.inference.ranker import Ranker, load

__all__ = ["Ranker", "load"]
