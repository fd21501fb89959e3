"""How the learning rate changes over a run: a pure function of the step."""

from __future__ import annotations

import math

from tailrank.training.config import TrainingConfig


def rate_factor(step: int, config: TrainingConfig, horizon: int) -> float:
    """The factor on the learning rate of a step.

    Rises linearly over `warmup_steps`, is 1 after them, and falls to 0 at `horizon` where the
    schedule says so.

    Args:
        step: steps done before this one, from 0.
        config: schedule and warm-up.
        horizon: steps planned, more than the warm-up has.

    Returns:
        Above 0 for every step before the horizon, 1 at most.
    """
    warmup = config.warmup_steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / (horizon - warmup)
    if config.lr_schedule == "linear":
        return 1.0 - done
    if config.lr_schedule == "cosine":
        # Loshchilov and Hutter, SGDR, arXiv 1608.03983, equation 5, without restarts.
        return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0
