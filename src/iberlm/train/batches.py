"""Each rank's shares of the steps, made ready by a thread while the device works."""

import threading
import time
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import torch

from iberlm.train.attention import documents_limit
from iberlm.train.data import TrainingData, rank_numbers


@dataclass(frozen=True)
class Share:
    """One rank's share of a step, on the host."""

    block: int
    arrays: torch.Tensor
    """int32[4, accumulation, micro_batch_size, sequence_length]: inputs, targets (`IGNORED` where not counted), positions, groups; pinned when asked for."""
    targets: int
    """Targets that are not `IGNORED`."""
    documents: int
    """No micro step has parts of more documents, for `TrainingModel.forward`."""


class Batches:
    """The shares of one rank (`rank` of `world` ranks that read different samples), prepared ahead by a thread.

    After `get(b)` the thread prepares the `depth` blocks after b. Any other block may be asked for (after a rollback): what was
    prepared is then dropped.
    """

    def __init__(
        self,
        data: TrainingData,
        *,
        rank: int,
        world: int,
        accumulation: int,
        micro_batch_size: int,
        global_batch_samples: int,
        pin: bool,
        depth: int = 3,
    ) -> None:
        self.waited = 0.0
        """Seconds that `get` had to wait, so far."""
        self._data, self._rank, self._world, self._accumulation = data, rank, world, accumulation
        self._micro_batch_size, self._global_batch_samples = micro_batch_size, global_batch_samples
        self._pin, self._depth = pin, depth
        # a thread begins on the first GPU, and pinning memory from there would open a context on it for every rank
        self._device = torch.cuda.current_device() if pin else None
        self._changed = threading.Condition()
        self._ready: dict[int, Share | BaseException] = {}
        self._first = self._next = self._stop = 0
        """Blocks from `_first` on are wanted; the thread makes those from `_next` up to `_stop`, which is not included."""
        self._jumps = 0
        self._closed = False
        # a daemon: a program that ends without `close` must not wait for it
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    def get(self, block: int) -> Share:
        """The share of a block, as soon as it is ready; raises what making it raised (`CorruptError` for an id outside the vocabulary)."""
        with self._changed:
            if not self._first <= block < self._stop:
                self._jumps += 1
                self._ready.clear()
                self._next = block
            for passed_over in [known for known in self._ready if known < block]:
                del self._ready[passed_over]
            self._first, self._next, self._stop = block, max(block, self._next), block + 1 + self._depth
            self._changed.notify_all()
            if block not in self._ready:
                begin = time.perf_counter()
                self._changed.wait_for(lambda: block in self._ready or self._closed)
                self.waited += time.perf_counter() - begin
            if self._closed:
                raise ValueError("these batches are closed")
            share = self._ready.pop(block)
            self._first = block + 1
        if isinstance(share, BaseException):
            raise share
        return share

    def close(self) -> None:
        """End the thread and drop what it prepared."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        self._thread.join()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._next < self._stop)
                if self._closed:
                    return
                block, jumps = self._next, self._jumps
                self._next += 1
            made: Share | BaseException
            try:
                made = self._make(block)
            except BaseException as error:  # whatever it is, it belongs to the one who asks for this block
                made = error
            with self._changed:
                if jumps == self._jumps and block >= self._first and not self._closed:
                    self._ready[block] = made
                    self._changed.notify_all()

    def _make(self, block: int) -> Share:
        if self._device is not None:
            torch.cuda.set_device(self._device)
        turns = range(self._accumulation)
        numbers = [rank_numbers(block, micro, self._rank, self._world, self._micro_batch_size, self._global_batch_samples) for micro in turns]
        shape = (4, self._accumulation, self._micro_batch_size, self._data.sequence_length)
        # pinned memory comes from torch's own cache, which gives none away again before the copies from it are done
        arrays = torch.empty(shape, dtype=torch.int32, pin_memory=self._pin)
        _, targets = self._data.build(np.concatenate(numbers), arrays.numpy().reshape(4, -1, shape[-1]))
        return Share(block, arrays, targets, documents_limit(arrays[2]))
