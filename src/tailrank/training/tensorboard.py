"""A run's scalars for TensorBoard, which is an extra: `pip install 'tailrank[tensorboard]'`.

Each run (`train`, `refit`) has a folder of its own below the one that is given. Knows no loop: it
is told about steps and evaluations.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tailrank.core.errors import BackendUnavailable, RequestError
from tailrank.training.history import CurvePoint, Progress

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_EVERY_STEPS = 10  # a point takes as long as a small step, and ten steps look alike


class TensorBoardLog:
    """Writes event files.

    Args:
        folder: made when there is something to write.
        resume: go on after the events of an interrupted run: those from the first step that is
            reported now are void, as that run may have got further than its checkpoint.

    Raises:
        BackendUnavailable: the package is not installed.
        RequestError: `folder` holds a run's events and `resume` is False.
    """

    def __init__(self, folder: Path, *, resume: bool) -> None:
        try:
            import tensorboard  # noqa: F401, the next line's own error names no way out
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise BackendUnavailable(
                f"--tensorboard: {error}; pip install 'tailrank[tensorboard]'"
            ) from None
        if not resume and any(folder.glob("*/events.out.tfevents.*")):
            reason = f"{folder} holds a run's events; name another folder, or --resume that run"
            raise RequestError("--tensorboard", reason)
        self._folder, self._open = folder, SummaryWriter
        self._writers: dict[str, SummaryWriter] = {}

    def step(self, run: str, now: Progress) -> None:
        """Write every tenth step."""
        writer = self._writers.get(run)
        if writer is None:
            writer = self._open(str(self._folder / run), purge_step=now.step)
            self._writers[run] = writer
        if now.step % _EVERY_STEPS:
            return
        scalars = {
            "logloss": now.step_logloss,
            "lr": now.lr,
            "samples_per_s": now.samples_per_s,
            "gradient_norm": now.gradient_norm,
        }
        for name, value in scalars.items():
            if value is not None:
                writer.add_scalar(f"train/{name}", value, now.step)
        writer.flush()  # or events from before a checkpoint could die with the process

    def point(self, run: str, point: CurvePoint) -> None:
        """Write an evaluation; its step has been reported before."""
        scalars = point.validation()
        for task, values in point.validation_by_task.items():
            scalars |= {f"{task}.{name}": value for name, value in values.items()}
        for name, value in scalars.items():
            self._writers[run].add_scalar(f"validation/{name}", value, point.step)
        self._writers[run].flush()

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()
