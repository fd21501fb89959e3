"""Ranking models: one file per architecture on shared layers, and presets with cited sizes."""

from tailrank.models.ranking_model import ModelConfig, RankingModel
from tailrank.models.registry import build_model, config_from_dict

__all__ = ["ModelConfig", "RankingModel", "build_model", "config_from_dict"]
