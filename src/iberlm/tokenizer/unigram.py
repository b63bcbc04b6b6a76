"""Bits per byte of a model that knows only how frequent tokens are: what a trained model must beat to have learnt anything."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

OWN, ALL = "own", "all"
"""Fitted on the language's own train tokens, or on those of all languages."""

Counts = npt.NDArray[np.int64]


def unigram_bits_per_byte(train: Counts, validation: Counts, validation_bytes: int, *, ends: Sequence[int]) -> float:
    """Bits per UTF-8 byte of an add-one smoothed token unigram.

    With c(t) the times that t occurs in the train tokens, N their number, n(t) and B the same of the validation tokens
    and the UTF-8 bytes of their text, and V the vocabulary's size:

        - sum over t of n(t) log2((c(t) + 1) / (N + V)) / B

    The ids that stand at the `ends` of documents (<s>, </s>) are no text and are left out of c, N and n. This is how the
    evaluation measures a trained model (lm-eval's rolling log-likelihood): -log2 p summed over the tokens of the text,
    divided by its UTF-8 bytes. `train`, `validation`: int64[V].
    """
    seen, measured = train.copy(), validation.copy()
    for end in ends:
        seen[end] = measured[end] = 0
    probability = (seen + 1) / (seen.sum() + len(seen))
    return float(-(measured * np.log2(probability)).sum() / validation_bytes)


def best_unigrams(
    train: Mapping[str, Counts], validation: Mapping[str, Counts], validation_bytes: Mapping[str, int], *, ends: Sequence[int]
) -> tuple[dict[str, float], dict[str, str]]:
    """For each language with validation text: the lower bits per byte of the two unigrams, and which one it was."""
    bits, better = {}, {}
    everything = np.sum([*train.values()], axis=0)
    for tag, counts in validation.items():
        if not validation_bytes[tag]:
            continue
        fits = {ALL: everything} | ({OWN: train[tag]} if tag in train else {})
        values = {name: unigram_bits_per_byte(fit, counts, validation_bytes[tag], ends=ends) for name, fit in fits.items()}
        better[tag] = min(values, key=lambda name: values[name])
        bits[tag] = values[better[tag]]
    return bits, better
