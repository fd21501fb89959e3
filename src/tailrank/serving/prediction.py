"""How long a batch will take, for the door: by a service-time table, or by a few calls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from tailrank.characterization.target import initialise_worker
from tailrank.core.fleet import Fleet
from tailrank.serving.admission import Predict
from tailrank.serving.model import ServedModel


def predictor(
    model: ServedModel, fleet: Fleet | None, num_workers: int, batch_items_max: int
) -> Predict:
    """Service time of a batch of so many items, on one worker while all are busy.

    Args:
        model: that ranks it.
        fleet: has its table; None: a few calls are timed now.
        num_workers: workers.
        batch_items_max: most items of a batch.

    Raises:
        ConfigError: the fleet does not know the model.
    """
    if fleet is not None:
        table = fleet.table(model.name, 0)
        items_max = int(table.axes["num_items"][-1])
        busy = min(num_workers, int(table.axes["busy_workers"][-1]))

        def from_table(num_items: int) -> float:
            measured = min(num_items, items_max)
            num_ids = round(model.ids_per_item * measured)
            return table.lookup_ns(1, measured, num_ids, busy) * num_items / measured

        return from_table
    one_ns, all_ns = _on_worker(lambda: (model.time_ns(1), model.time_ns(batch_items_max)))
    item_ns = max(0.0, (all_ns - one_ns) / max(1, batch_items_max - 1))
    return lambda num_items: one_ns + item_ns * (num_items - 1)


def _on_worker(measure: Callable[[], tuple[int, int]]) -> tuple[int, int]:
    """What `measure` returns on a thread that is set up like a worker's."""
    found: Future[tuple[int, int]] = Future()

    def run() -> None:
        initialise_worker(0)
        try:
            found.set_result(measure())
        except BaseException as error:
            found.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return found.result()
