"""The operating point that a `tune` left behind, for whoever is to run it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tailrank.characterization.target import TargetConfig
from tailrank.core.errors import ConfigError, DataError
from tailrank.core.fleet import CPU
from tailrank.core.sla import SLA
from tailrank.inference.precision import Precision
from tailrank.reporting.result import read_result
from tailrank.scheduling.policies import PolicyConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedPoint:
    """What was found.

    Args:
        target: the model, without the queries that it was tuned with.
        sla: what is kept.
        policy: the best policy and its settings.
        num_workers: its workers.
        profile: service times of the host that it was found on.
        capacity_qps: the load that it holds, live where that was measured.
    """

    target: TargetConfig
    sla: SLA
    policy: PolicyConfig
    num_workers: int
    profile: Path
    capacity_qps: float


def read_tuned(folder: Path) -> TunedPoint:
    """Read the operating point in a folder that `tailrank tune` wrote.

    Raises:
        DataError: there is none, or not one that can be run.
    """
    file = folder / "result.json"
    result = read_result(file)
    if result.command != "tune":
        raise DataError(file, f"a result of {result.command}; expected one of tune")
    try:
        target, point = result.config["target"], result.config["operating_point"]
        policy = dict(result.config["tuned"])
        if set(target["devices"]) != {CPU}:
            raise ValueError(f"found for {', '.join(target['devices'])}; a server has CPU cores")
        policy["divisions"] = ()  # a list in JSON, and `tune` divides no workers
        policy["sla"] = None if policy["sla"] is None else SLA(**policy["sla"])
        precision = target["precision"]
        metrics = result.metrics
        return TunedPoint(
            target=TargetConfig(
                target=target["target"],
                scale=target["scale"],
                user_tables=target["user_tables"],
                precision=None if precision is None else Precision(**precision),
                seed=target["seed"],
            ),
            sla=SLA(**point["sla"]),
            policy=PolicyConfig(**policy),
            num_workers=int(metrics["tuned.num_workers"]),
            profile=folder / "profile.json",
            capacity_qps=metrics.get("tuned.capacity_qps", metrics["tuned.simulated_capacity_qps"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise DataError(file, f"not an operating point that can be served ({error})") from None
