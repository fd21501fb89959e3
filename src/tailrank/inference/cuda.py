"""The GPU ranker: lookups in Triton and the model's own `score`, all of it in one CUDA graph.

A batch is rounded up to a bucket of sizes and packed into one block of pinned memory. One transfer
brings it to the GPU, one graph, recorded when its bucket was first seen, scores it, and one
transfer brings scores and faults back. Every model is covered whose `score` can be recorded.

Threads: a stream with its graphs and buffers is a *lane*, which one thread has at a time. Two lanes
let one batch be packed while another is scored; further threads wait. A stream for each thread
would record every graph once more for each, and one lock would idle the GPU during packing.

Needs Triton: whoever imports this has called `kernels.cuda.require` before. With its tables on the
CPU, as tests have them under Triton's interpreter, a ranker does the same without graphs.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tailrank.core.errors import BackendUnavailable, ConfigError
from tailrank.embeddings import EmbeddingTables, Pooled
from tailrank.features import SIDES, FeatureBatch, Side
from tailrank.inference.artifact import ArtifactRecord, fill_weights
from tailrank.inference.dense_layers import with_packed_layers
from tailrank.inference.precision import Precision
from tailrank.inference.static_batch import BatchShape, Faults, StaticBatch, StaticScores
from tailrank.inference.table_file import ByteProgress
from tailrank.kernels import cuda
from tailrank.kernels.row_formats import FLOATS, RowFormat, columns, dtype_of, format_of
from tailrank.kernels.triton_lookup import choose_tile, pooled_lookup
from tailrank.models import ModelConfig, RankingModel, build_model
from tailrank.models.memory import check_fits

_NUM_LANES = 2
# What a lane keeps: graphs of so many shapes, and so many bytes (on the host and again on the GPU)
# for their batches. The one unused for longest goes.
_SHAPES_MAX, _SHAPE_BYTES_MAX = 128, 1 << 30


class _Recorded(NamedTuple):
    """What scores batches of one shape: where they go, what to run, where the scores come out."""

    inputs: StaticBatch
    outputs: StaticScores
    run: Callable[[], None]


class CudaRanker:
    """Scores on one GPU; safe from several threads.

    Args:
        model: its tables are where it is to be scored, see `place_on`; the rest is moved there.
        precision: number formats.

    Raises:
        BackendUnavailable: the GPU has no such dense layers, the model reads sequences, or `score`
            cannot be recorded; says why.
    """

    device = "cuda"

    def __init__(self, model: RankingModel, precision: Precision) -> None:
        if precision.dense not in FLOATS:
            reason = f"the cuda ranker has no dense layers in {precision.dense}"
            raise BackendUnavailable(f"{reason}; export with dense=bf16, or use the cpu ranker")
        tables = model.tables
        if tables.reads_sequences:
            name, reason = type(model).__name__, "the cuda ranker reads no sequences row by row"
            raise BackendUnavailable(f"{reason}, as {name} does; use the cpu ranker")
        self.precision, self._tables, self._on = precision, tables, tables.weight_VD.device
        self._name, self._num_tasks = type(model).__name__, model.num_tasks
        self._model = model.to(self._on).eval()
        if precision.dense != "fp32":
            # "mkl" stands for torch's own matrix products, wherever the weights are.
            self._model = with_packed_layers(model, "mkl", precision.dense).eval()
        self._ranges = {side: _ranges(tables, side).to(self._on) for side in SIDES}
        self._tiles = {
            side: choose_tile(tables.embedding_dim, _ids_per_bag(tables, side)) for side in SIDES
        }
        self._recording = threading.Lock()
        # The last one used comes first: a single caller always finds its graphs.
        self._lanes: queue.LifoQueue[_Lane] = queue.LifoQueue()
        for _ in range(_NUM_LANES):
            self._lanes.put(_Lane(self._on))
        with self._lane() as lane:
            self._recorded(lane, BatchShape(users=1, items=1, ids=1))

    def rank(self, batch: FeatureBatch) -> Tensor:
        """Probabilities (B,), or (B, T) of several tasks, float32, on the CPU.

        Raises:
            ConfigError: an id outside its table, or features that do not fit the model.
        """
        if batch.num_items == 0:
            return torch.empty(0) if self._num_tasks == 1 else torch.empty(0, self._num_tasks)
        batch = self._model.prepare(batch)
        with self._lane() as lane:
            recorded = self._recorded(lane, BatchShape.holding(batch))
            recorded.inputs.send(batch)
            recorded.run()
            recorded.outputs.fetch()
            lane.wait()
            scores_BT, faults = recorded.outputs.fetched(batch.num_items)
        self._check(batch, faults)
        return scores_BT.squeeze(1)

    def describe(self) -> dict[str, object]:
        """What was chosen, for the result file."""
        weight_VD, on_gpu = self._tables.weight_VD, self._on.type == "cuda"
        return {
            "device": self.device,
            "gpu": torch.cuda.get_device_name(self._on) if on_gpu else None,
            "precision": str(self.precision),
            "dense_backend": "torch",
            "embedding_backend": f"triton {cuda.triton_version()}",
            "score_path": "a CUDA graph for each bucket of sizes" if on_gpu else "no graph",
            "lanes": _NUM_LANES,
            "table_bytes": weight_VD.numel() * weight_VD.element_size(),
        }

    @contextlib.contextmanager
    def _lane(self) -> Iterator[_Lane]:
        """A lane to oneself, its stream the current one."""
        lane = self._lanes.get()
        try:
            with torch.inference_mode(), lane.current():
                yield lane
        finally:
            self._lanes.put(lane)

    def _recorded(self, lane: _Lane, shape: BatchShape) -> _Recorded:
        """What scores batches of that shape on this lane."""
        recorded = lane.recorded.pop(shape, None)
        if recorded is None:
            recorded = self._record(lane, shape)
            lane.make_room(recorded.inputs.num_bytes)
        lane.recorded[shape] = recorded
        return recorded

    def _record(self, lane: _Lane, shape: BatchShape) -> _Recorded:
        """Make room for batches of that shape and record how they are scored."""
        inputs = StaticBatch(self._tables.spec, shape, self._on)
        outputs = StaticScores(shape.items, self._num_tasks, self._on)
        with self._recording:
            try:
                run = lane.record(lambda: self._score(inputs.features, outputs))
            except RuntimeError as error:
                # The end of a broken recording raises too, and knows less.
                reason = str(error.__context__ or error).splitlines()[0]
                raise BackendUnavailable(
                    f"the cuda ranker cannot run {self._name} on {shape}: {reason}; "
                    "the eager and the cpu ranker can"
                ) from None
        return _Recorded(inputs, outputs, run)

    def _score(self, batch: FeatureBatch, outputs: StaticScores) -> None:
        """All that the device does for a batch."""
        outputs.clear_faults()
        user_UFD = self._pooled(batch, "user", outputs)
        item_BFD = self._pooled(batch, "item", outputs)
        logits_BT = self._model.score(batch, Pooled(user_UFD, item_BFD))
        torch.sigmoid(logits_BT, out=outputs.scores_BT)

    def _pooled(self, batch: FeatureBatch, side: Side, outputs: StaticScores) -> Tensor:
        """Pooled embeddings of one side (R, F, D), fp32."""
        features = batch.user if side == "user" else batch.item
        ranges_F2, dim = self._ranges[side], self._tables.embedding_dim
        pooled_RFD = torch.empty(features.num_rows, len(ranges_F2), dim, device=self._on)
        pooled_lookup(
            self._tables.weight_VD,
            format_of(self._tables.weight_VD, dim),
            ranges_F2,
            features.values_L,
            features.offsets,
            features.weights_L,
            pooled_RFD.view(-1, dim),
            outputs.faults[side],
            self._tiles[side],
        )
        return pooled_RFD

    def _check(self, batch: FeatureBatch, faults: dict[Side, Faults]) -> None:
        """Raise what the lookups found."""
        first_id = 0
        for side in SIDES:
            features = batch.user if side == "user" else batch.item
            bag, position = faults[side]
            if bag is not None:
                value, last = int(features.offsets[bag + 1]), features.num_ids
                raise ConfigError(f"{side}.offsets[{bag + 1}]", value, f"rising from 0 to {last}")
            if position is not None:
                raise features.id_error(self._tables.spec, side, position - first_id)
            first_id += features.num_ids


class _Lane:
    """One stream with what was recorded for it; one thread has it at a time.

    Its graphs share one pool of memory: they run one after the other, and nothing that one leaves
    in the pool is read by another.
    """

    def __init__(self, on: torch.device) -> None:
        self.recorded: dict[BatchShape, _Recorded] = {}
        self._stream: torch.cuda.Stream | None = None
        if on.type == "cuda":
            self._stream = torch.cuda.Stream(on)  # type: ignore[no-untyped-call]
            self._pool = torch.cuda.graph_pool_handle()

    def current(self) -> contextlib.AbstractContextManager[object]:
        """Within it, work goes to this lane's stream."""
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def record(self, run: Callable[[], None]) -> Callable[[], None]:
        """`run` as a graph; as it is on the CPU, which has none.

        Raises:
            RuntimeError: it does what a graph cannot hold.
        """
        if self._stream is None:
            run()
            return run
        torch.cuda.synchronize()  # weights may still be on their way on another stream
        for _ in range(2):  # compiles kernels and makes what is made once: no place in a graph
            run()
        graph = torch.cuda.CUDAGraph()
        # thread_local: what other threads do on other streams meanwhile does not spoil this graph.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            run()
        return graph.replay

    def make_room(self, num_bytes: int) -> None:
        """Forget what was unused for longest until one more shape of that size may be kept."""
        kept = sum(recorded.inputs.num_bytes for recorded in self.recorded.values())
        while self.recorded and (
            len(self.recorded) >= _SHAPES_MAX or kept + num_bytes > _SHAPE_BYTES_MAX
        ):
            kept -= self.recorded.pop(next(iter(self.recorded))).inputs.num_bytes

    def wait(self) -> None:
        """Wait until all that was sent is done."""
        if self._stream is not None:
            self._stream.synchronize()


def place_on(tables: EmbeddingTables, row_format: RowFormat, on: torch.device) -> None:
    """Give `tables` a merged weight of that format on a device, for weights that follow.

    Raises:
        RequestError: it does not fit into the device's free memory.
    """
    shape = torch.Size((tables.weight_VD.shape[0], columns(row_format, tables.embedding_dim)))
    dtype = dtype_of(row_format)
    free_bytes = torch.cuda.mem_get_info(on)[0] if on.type == "cuda" else None
    check_fits(dtype.itemsize * shape.numel(), free_bytes)
    weight_VD = torch.empty(shape, dtype=dtype, device=on)
    tables.weight_VD = nn.Parameter(weight_VD, requires_grad=False)


def load_cuda(
    path: Path,
    record: ArtifactRecord,
    on: torch.device,
    progress: ByteProgress = lambda done, total: None,
) -> CudaRanker:
    """The artifact in folder `path` on a device; its tables never lie whole on the host.

    Args:
        path: folder written by `save_artifact`.
        record: what its `model.json` says.
        on: the device.
        progress: told the bytes of tables read so far, and all.

    Raises:
        DataError: a file is missing, truncated or altered, or does not fit the model.
        RequestError, BackendUnavailable: see `place_on` and `CudaRanker`.
    """
    model = build_model(record.config, None)
    place_on(model.tables, record.precision.rows, on)
    fill_weights(path, model, record, progress)
    return CudaRanker(model, record.precision)


def copy_to(
    on: torch.device, model: RankingModel, config: ModelConfig, precision: Precision
) -> CudaRanker:
    """A model that lies on the host, on a device as well.

    Args:
        on: the device.
        model: its rows are in the precision's format.
        config: of that model.
        precision: number formats.

    Raises:
        RequestError, BackendUnavailable: see `place_on` and `CudaRanker`.
    """
    copy = build_model(config, None)
    place_on(copy.tables, precision.rows, on)
    copy.load_state_dict(model.state_dict())
    return CudaRanker(copy, precision)


def _ranges(tables: EmbeddingTables, side: Side) -> Tensor:
    """First row and number of rows of each feature's table, int64 (F, 2)."""
    named = [tables.spec.table(feature.table) for feature in tables.spec.sparse(side)]
    ranges = [(tables.first_row[table.name], table.num_embeddings) for table in named]
    return torch.tensor(ranges, dtype=torch.int64).view(-1, 2)


def _ids_per_bag(tables: EmbeddingTables, side: Side) -> float:
    """Mean ids of a bag, as the features say."""
    return tables.spec.ids_per_row(side) / max(1, len(tables.spec.sparse(side)))
