"""The finished stages of a search for an operating point, each a file that is whole or absent.

Runs are kept as their rows, from which everything else follows; never pickle.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from tailrank.characterization.operating_point import Bracket
from tailrank.characterization.stages import LiveRun, LiveStage, SimulatedStage
from tailrank.core.errors import DataError, RequestError
from tailrank.core.files import replace_file, replace_text
from tailrank.core.fleet import CPU
from tailrank.core.service_time import ServiceTimeTable
from tailrank.runtime.record import BatchColumns, Column, QueryColumns, RunResult
from tailrank.tuning.candidate import Candidate

_SETTINGS = "settings.json"


class FileStages:
    """Stages in a folder.

    Args:
        folder: of one search; made with the first stage.
        settings: what the stages are good for, by name; another search has others.
        resume: whether to go on with what is there.
        overwrite: whether to start again in spite of it.

    Raises:
        RequestError: there is nothing to go on with, or it was a search with other settings, or
            something would be lost.
        DataError: a file is damaged.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, object], *, resume: bool, overwrite: bool
    ) -> None:
        self._folder = folder
        self._settings = {name: str(value) for name, value in settings.items()}
        begun = (folder / _SETTINGS).exists()
        if resume and not begun:
            reason = f"no finished stage in {folder}; start the search without it"
            raise RequestError("--resume", reason)
        if resume:
            self._check_settings()
        elif begun and not overwrite:
            raise RequestError(
                "--out",
                f"{folder} holds an interrupted search; go on with --resume, or start again with "
                "--overwrite",
            )
        elif begun:
            self.remove()

    def remove(self) -> None:
        """Delete all stages: they are part of a result now."""
        for path in self._folder.glob("*.*"):  # but not the lock of who is at work here
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def profile(self, device: str) -> ServiceTimeTable | None:
        """The service times of a device, if they were measured."""
        path = self._folder / profile_name(device)
        return ServiceTimeTable.load(path) if path.exists() else None

    def keep_profile(self, device: str, table: ServiceTimeTable) -> None:
        """Write them down."""
        self._begin()
        table.save(self._folder / profile_name(device))

    def simulated(self, prefix: str) -> SimulatedStage | None:
        """The search of a contender, if it was finished."""
        path = self._simulated_path(prefix)
        if not path.exists():
            return None
        try:
            record = _read_json(path)
            return SimulatedStage(
                _bracket(record["best"]), tuple(_bracket(each) for each in record["seen"])
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(path, f"not the stage of a search ({error!r})") from None

    def keep_simulated(self, prefix: str, stage: SimulatedStage) -> None:
        """Write it down."""
        self._begin()
        replace_text(self._simulated_path(prefix), json.dumps(asdict(stage)) + "\n")

    def live(self, candidate: Candidate) -> LiveStage | None:
        """A candidate's verification, if it was finished."""
        path = self._live_path(candidate)
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as stored:
                record = json.loads(str(stored["record"]))
                ends = [
                    LiveRun(end["qps"], _run(end["run"], stored, f"{i}."), end["queries_per_joule"])
                    for i, end in enumerate(record["ends"])
                ]
            return LiveStage(_bracket(record["bracket"]), tuple(ends))
        except (KeyError, TypeError, ValueError, OSError, BadZipFile) as error:
            raise DataError(path, f"not the stage of a search ({error!r})") from None

    def keep_live(self, stage: LiveStage) -> None:
        """Write it down."""
        self._begin()
        arrays: dict[str, Any] = {}
        ends = []
        for index, end in enumerate(stage.ends):
            arrays |= _columns(end.run, f"{index}.")
            run = {name: getattr(end.run, name) for name in _RUN_FIELDS}
            ends.append({"qps": end.qps, "queries_per_joule": end.queries_per_joule, "run": run})
        record = json.dumps({"bracket": asdict(stage.bracket), "ends": ends})
        with replace_file(self._live_path(stage.bracket.candidate)) as fresh:
            np.savez(fresh, record=np.array(record), **arrays)

    def _begin(self) -> None:
        """Say what the stages are good for, before the first one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / _SETTINGS
        if not path.exists():
            replace_text(path, json.dumps(self._settings, indent=2) + "\n")

    def _check_settings(self) -> None:
        path = self._folder / _SETTINGS
        try:
            kept = _read_json(path)
            others = [n for n in self._settings | kept if self._settings.get(n) != kept.get(n)]
        except (TypeError, ValueError) as error:
            raise DataError(path, f"not the settings of a search ({error!r})") from None
        if others:
            name = others[0]
            reason = f"the search in {self._folder} had {name} {kept.get(name)}, this one has "
            raise RequestError("--resume", f"{reason}{self._settings.get(name)}")

    def _simulated_path(self, prefix: str) -> Path:
        return self._folder / f"simulated-{prefix}.json"

    def _live_path(self, candidate: Candidate) -> Path:
        words = "-".join(str(value) for value in asdict(candidate).values())
        return self._folder / f"live-{words}.npz"


def profile_name(device: str) -> str:
    """The file of a device's service times: `profile.json` for the cores."""
    return "profile.json" if device == CPU else f"profile-{device}.json"


_RUN_FIELDS = ("num_workers", "ended_ns", "open_query_ns", "drained")


def _columns(run: RunResult, prefix: str) -> dict[str, Column]:
    """All columns of a run by name."""
    found = {f"{prefix}wake_lateness_ns": run.wake_lateness_ns}
    for table in (run.queries, run.batches):
        for column in fields(table):
            name = f"{prefix}{type(table).__name__}.{column.name}"
            found[name] = getattr(table, column.name)
    return found


def _run(record: Mapping[str, Any], stored: Mapping[str, Column], prefix: str) -> RunResult:
    """The run that `_columns` took apart; a run that had an error is never kept."""

    def columns(kind: type) -> dict[str, Column]:
        return {each.name: stored[f"{prefix}{kind.__name__}.{each.name}"] for each in fields(kind)}

    return RunResult(
        queries=QueryColumns(**columns(QueryColumns)),
        batches=BatchColumns(**columns(BatchColumns)),
        wake_lateness_ns=stored[f"{prefix}wake_lateness_ns"],
        first_error=None,
        **{name: record[name] for name in _RUN_FIELDS},
    )


def _bracket(record: Mapping[str, Any]) -> Bracket:
    return Bracket(Candidate(**record["candidate"]), record["low_qps"], record["high_qps"])


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON file; infinities as Python writes them, for nobody else reads it."""
    record = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    return record
