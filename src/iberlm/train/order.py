"""Data order as a pure function: sample `i` follows from (seed, mixtures, `i`) and nothing else.

A sample is a window of `sequence_length + 1` tokens of one source (one language of one store). The run is cut into phases,
a phase into cycles of `SLOTS` slots. In every cycle of a phase a source has the same number of slots, by largest remainder
of its weight; where they fall is permuted by a hash of (seed, phase, cycle). The k-th pick of a source with N windows is
window `permutation(k % N)` of epoch `k // N`, the permutation being a keyed bijection that needs no memory; `k` goes on
counting from phase to phase. So a run resumes from one integer, any number of ranks sees the same samples, and the way back,
from a window to the samples that hold it, is as short.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from iberlm.core.errors import ConfigError, DataError
from iberlm.train.config_groups import EPOCHS, TEMPERATURE, TOKENS, WEIGHTS, MixtureConfig

SLOTS = 4096
"""Slots of a cycle: shares are exact to 1/4096, which leaves Basque's 0.26 % of a large mix within 4 % of its weight."""

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
_FEISTEL_ROUNDS = 6


@dataclass(frozen=True)
class Source:
    """What samples are drawn from, one language of one store: its name, and how many windows its tokens hold."""

    name: str
    windows: int


@dataclass(frozen=True)
class Phase:
    """A stretch of the order: its first sample, and the share of each source (0..1, adding up to 1); sources that are not named are not drawn."""

    begin: int
    shares: Mapping[str, float]


@dataclass(frozen=True)
class Picks:
    """Samples by number: position of the source among the sources, epoch and window in that source, int64[n] each."""

    source: I64
    epoch: I64
    window: I64


def shares(config: MixtureConfig, tokens: dict[str, int], sequence_length: int, key: str = "mixture") -> dict[str, float]:
    """Share of each language, adding up to 1, for a store with `tokens` by language.

    weights and tokens: as given; epochs: as given, times the windows of the language; temperature: tokens^(1/temperature);
    uniform: all alike. Raises `ConfigError` for a language that the store does not have and `DataError` for one with less
    than a window; `key` is what the message calls the mixture.
    """
    given = config.kind in (WEIGHTS, TOKENS, EPOCHS)
    wanted = {tag: weight for tag, weight in config.weights.items() if weight > 0} if given else dict.fromkeys(config.languages, 1.0)
    key = f"{key}.weights" if given else f"{key}.languages"
    for tag in wanted:
        if tag not in tokens:
            raise ConfigError(f"{key}: the token store has no '{tag}'; it has {', '.join(sorted(tokens)) or 'nothing'}")
        if window_count(tokens[tag], sequence_length) == 0:
            raise DataError(f"{key}: '{tag}' has {tokens[tag]} training tokens, fewer than one sample (sequence_length + 1 = {sequence_length + 1})")
    if not wanted:
        wanted = {tag: 1.0 for tag, count in sorted(tokens.items()) if window_count(count, sequence_length) > 0}
    if not wanted:
        raise DataError(f"the token store has no language with {sequence_length + 1} training tokens (sequence_length + 1): {tokens}")
    if config.kind == TEMPERATURE:
        # scaled by the largest first: 10^13 tokens to a high power would overflow
        largest = max(tokens[tag] for tag in wanted)
        wanted = {tag: (tokens[tag] / largest) ** (1 / config.temperature) for tag in wanted}
    if config.kind == EPOCHS:
        wanted = {tag: weight * window_count(tokens[tag], sequence_length) for tag, weight in wanted.items()}
    total = sum(wanted.values())
    return {tag: weight / total for tag, weight in sorted(wanted.items())}


def window_count(tokens: int, sequence_length: int) -> int:
    """Windows in a source: window `w` is tokens `w * sequence_length` to `(w + 1) * sequence_length`, both included."""
    return max(0, (tokens - 1) // sequence_length)


def allot(weights: Sequence[float], slots: int = SLOTS) -> list[int]:
    """Slots of a cycle for each weight (adding up to 1), by largest remainder. None gets less than one slot."""
    if len(weights) > slots:
        raise ConfigError(f"mixture: {len(weights)} sources do not fit {slots} slots")
    exact = [weight * slots for weight in weights]
    counts = [max(1, int(value)) for value in exact]
    missing = slots - sum(counts)
    by_remainder = sorted(range(len(weights)), key=lambda entry: (counts[entry] - exact[entry], entry))
    for entry in by_remainder[: max(0, missing)]:
        counts[entry] += 1
    for _ in range(-missing):  # the slots given to sources that have less than one come from the largest
        counts[counts.index(max(counts))] -= 1
    return counts


class Order:
    """The order of samples over `sources` under `seed`, through `phases`: the first begins at sample 0, the last has no end."""

    def __init__(self, sources: Sequence[Source], seed: int, phases: Sequence[Phase]) -> None:
        self.sources, self.seed, self.phases = tuple(sources), seed, tuple(phases)
        self._begins = np.asarray([phase.begin for phase in phases], dtype=np.int64)
        self._counts = np.zeros((len(phases), len(sources)), dtype=np.int64)
        """Slots of each source in a cycle of each phase, int64[phases, sources]."""
        for number, phase in enumerate(phases):
            drawn = [position for position, source in enumerate(sources) if phase.shares.get(source.name, 0) > 0]
            self._counts[number, drawn] = allot([phase.shares[sources[position].name] for position in drawn])
        self._keys = [_hash64(f"{seed}/{source.name}") for source in sources]
        self._cycle = lru_cache(maxsize=8)(self._cycle_uncached)
        self._before = np.zeros_like(self._counts)
        """Picks of each source before each phase, int64[phases, sources]."""
        for number in range(1, len(phases)):
            self._before[number] = self._before[number - 1] + self._counted(number - 1, int(self._begins[number] - self._begins[number - 1]))

    def picks(self, numbers: npt.ArrayLike) -> Picks:
        """Sources and windows of the samples with these numbers, any shape flattened to [n]."""
        numbers = np.asarray(numbers, dtype=np.int64).ravel()
        phases = self._phase(numbers)
        cycles, slots = np.divmod(numbers - self._begins[phases], SLOTS)
        if len(numbers) and (phases == phases[0]).all() and (cycles == cycles[0]).all():  # a batch is nearly always inside a cycle
            return self._taken(int(phases[0]), int(cycles[0]), slots)
        found = Picks(*(np.empty_like(numbers) for _ in range(3)))
        for phase, cycle in np.unique(np.stack([phases, cycles]), axis=1).T.tolist():
            here = (phases == phase) & (cycles == cycle)
            part = self._taken(phase, cycle, slots[here])
            found.source[here], found.epoch[here], found.window[here] = part.source, part.epoch, part.window
        return found

    def counts(self, samples: int) -> I64:
        """Picks of each source among the first so many samples, exactly; int64[sources]."""
        if samples <= 0:
            return np.zeros(len(self.sources), dtype=np.int64)
        phase = int(self._phase(np.asarray([samples - 1]))[0])
        found: I64 = self._before[phase] + self._counted(phase, samples - int(self._begins[phase]))
        return found

    def samples_of(self, source: int, window: int, samples: int) -> I64:
        """Numbers, ascending, of all the first so many samples that are this window of this source (its position), in whatever epoch or phase; int64[n].

        Time and memory are those of the answer, not of the run.
        """
        windows = self.sources[source].windows
        if not 0 <= window < windows:
            raise ValueError(f"window {window} of {self.sources[source].name}, which has {windows}")
        picks = int(self.counts(samples)[source])
        epochs = np.arange(-(-picks // windows), dtype=np.int64)
        nth = epochs * windows + unpermute(np.full(len(epochs), window, dtype=np.int64), windows, epochs, self._keys[source])
        return self._samples_of_picks(source, nth[nth < picks])

    def _phase(self, numbers: I64) -> I64:
        if len(self._begins) == 1:
            return np.zeros(len(numbers), dtype=np.int64)
        return np.searchsorted(self._begins, numbers, side="right") - 1

    def _counted(self, phase: int, samples: int) -> I64:
        """Picks of each source in the first so many samples of a phase."""
        cycles, slots = divmod(samples, SLOTS)
        part = np.bincount(self._slots(phase, cycles)[:slots], minlength=len(self.sources)) if slots else 0
        found: I64 = cycles * self._counts[phase] + part
        return found

    def _taken(self, phase: int, cycle: int, slots: I64) -> Picks:
        whole = self._cycle(phase, cycle)
        return Picks(whole.source[slots], whole.epoch[slots], whole.window[slots])

    def _hashes(self, phase: int, cycle: int) -> U64:
        """What the picks of a cycle, source after source, are sorted by; uint64[SLOTS], all different."""
        key = _hash64(f"{self.seed}/phase/{phase}/cycle/{cycle}" if phase else f"{self.seed}/cycle/{cycle}")
        return _mix(np.arange(SLOTS, dtype=np.uint64) + np.uint64(key))

    def _slots(self, phase: int, cycle: int) -> I64:
        """Source of each slot of a cycle, int64[SLOTS]."""
        order = np.argsort(self._hashes(phase, cycle), kind="stable")
        return np.repeat(np.arange(len(self.sources)), self._counts[phase])[order]

    def _cycle_uncached(self, phase: int, cycle: int) -> Picks:
        """The picks of all slots of a cycle: a thousandth of a second, and a training run asks for the slots one batch after the other."""
        source = self._slots(phase, cycle)
        epoch, window = np.empty(SLOTS, dtype=np.int64), np.empty(SLOTS, dtype=np.int64)
        for position, (count, before) in enumerate(zip(self._counts[phase].tolist(), self._before[phase].tolist(), strict=True)):
            here, windows = source == position, self.sources[position].windows
            nth = before + cycle * count + np.arange(count)  # of the source's picks, from 0
            epoch[here] = nth // windows
            window[here] = permute(nth % windows, windows, nth // windows, self._keys[position])
        return Picks(source, epoch, window)

    def _samples_of_picks(self, source: int, nth: I64) -> I64:
        """The samples that are these picks (ascending, from 0) of a source."""
        # the last phase with fewer picks before it is the one; phases that do not draw the source have as many as the next
        phases = np.searchsorted(self._before[:, source], nth, side="right") - 1
        found = np.empty_like(nth)
        for phase in np.unique(phases).tolist():
            here, count = phases == phase, int(self._counts[phase, source])
            cycles, ranks = np.divmod(nth[here] - self._before[phase, source], count)
            found[here] = self._begins[phase] + cycles * SLOTS + self._nth_slots(phase, source, cycles, ranks)
        return found

    def _nth_slots(self, phase: int, source: int, cycles: I64, ranks: I64) -> I64:
        """Slot of the source's pick number `ranks` (from 0) in each of these cycles (ascending).

        The slots of a cycle are sorted by a hash, so a pick's slot is the number of hashes below its own.
        """
        first = int(self._counts[phase, :source].sum())
        last = first + int(self._counts[phase, source])
        found = np.empty_like(cycles)
        different, begins = np.unique(cycles, return_index=True)
        for cycle, begin, end in zip(different.tolist(), begins.tolist(), [*begins[1:].tolist(), len(cycles)], strict=True):
            values = self._hashes(phase, cycle)
            found[begin:end] = np.searchsorted(np.sort(values), np.sort(values[first:last])[ranks[begin:end]])
        return found


def permute(index: I64, size: int, epoch: I64, key: int) -> I64:
    """Keyed bijection of 0..size-1, another one for each epoch. Element-wise over `index` and `epoch`, int64[n].

    A balanced Feistel network over the smallest even number of bits that holds `size`, walked until the value is in range
    again (Black and Rogaway, 2002, "Ciphers with arbitrary finite domains"): fewer than 4 walks on average.
    """
    return _walk(index, size, epoch, key, back=False)


def unpermute(value: I64, size: int, epoch: I64, key: int) -> I64:
    """Inverse of `permute`: the index that it takes to each value. The cycle is walked the other way round."""
    return _walk(value, size, epoch, key, back=True)


def _walk(begin: I64, size: int, epoch: I64, key: int, *, back: bool) -> I64:
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    keys = _mix(np.uint64(key) ^ _mix(epoch.astype(np.uint64)))
    value = _feistel(begin.astype(np.uint64), keys, half, back=back)
    while (outside := value >= np.uint64(size)).any():
        value[outside] = _feistel(value[outside], keys[outside], half, back=back)
    return value.astype(np.int64)


def _feistel(value: U64, keys: U64, half: int, *, back: bool) -> U64:
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    left, right = value >> shift, value & mask
    rounds = range(_FEISTEL_ROUNDS)
    if back:  # with the halves exchanged, a round undoes itself
        left, right, rounds = right, left, rounds[::-1]
    for number in rounds:
        left, right = right, left ^ (_mix(right ^ _mix(keys + np.uint64(number))) & mask)
    if back:
        left, right = right, left
    return (left << shift) | right


def _mix(value: U64) -> U64:
    """SplitMix64's finaliser (Steele, Lea and Flood, 2014): a bijection of 64-bit integers that scatters them."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _hash64(text: str) -> int:
    # the top bit is left clear so that adding a slot number cannot overflow
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
