"""The goldfish loss: how much it leaves out, that it is always the same, and that nothing overflows."""

import json
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iberlm.sources.sample import sample_files
from iberlm.train.goldfish import drop_mask

BOS = 1
I64 = npt.NDArray[np.int64]


def zipf_ids(vocabulary: int, count: int, seed: int = 0) -> I64:
    """Ids as frequent as words: the n-th has 1/n of the first's share. Which ids are frequent is random; none is BOS."""
    generator = np.random.default_rng(seed)
    shares = 1 / np.arange(1, vocabulary - 1)
    return generator.permutation(np.arange(2, vocabulary))[generator.choice(vocabulary - 2, count, p=shares / shares.sum())].astype(np.int64)


def word_ids() -> I64:
    """The embedded sample's texts as ids of their words, numbered as they come."""
    texts = [json.loads(line)["text"] for path in sample_files() for line in path.read_text(encoding="utf-8").splitlines()]
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(word, 2 + len(numbers)) for text in texts for word in text.split()])


def expected_error(row: I64, k: int, context: int) -> float:
    """Standard error of the share that is left out when each *distinct* context is left out with probability 1/k.

    Where contexts come again (short ones do), all their targets stay or go together, so the error is larger than that of a coin a target.
    """
    windows = np.lib.stride_tricks.sliding_window_view(row[:-1], context)
    _, counts = np.unique(np.ascontiguousarray(windows).view(f"V{8 * context}"), return_counts=True)
    return math.sqrt(((counts / counts.sum()) ** 2).sum() / k * (1 - 1 / k))


@pytest.mark.parametrize("ids", [zipf_ids(32_000, 60_000), zipf_ids(256_000, 60_000, seed=1), word_ids()], ids=["zipf 32k", "zipf 256k", "text"])
@pytest.mark.parametrize("context", [1, 2, 13, 50, 64])
def test_one_target_in_k_is_left_out_whatever_the_context(ids: I64, context: int) -> None:
    row = ids[None, :]
    for k in (2, 3, 4, 8, 31, 50):
        share = drop_mask(row, k, context, bos=None)[:, context - 1 :].mean()
        assert abs(share - 1 / k) < 4.5 * expected_error(ids, k, context), (k, context, share)


def test_no_hash_is_lost_to_overflow_where_a_product_of_ids_is() -> None:
    # a product of ids in 64 bits is 0 once 64 factors of 2 have come together: half of the ids have one, a quarter two...
    ids = zipf_ids(32_000, 200_000)
    with np.errstate(over="ignore"):
        products = np.lib.stride_tricks.sliding_window_view(ids[:-1], 50).prod(axis=1)
    lost = (products == 0).mean()
    assert lost > 0.1
    # all of those share one hash, so what is left out cannot be the share that was asked for, for more than one table in fifty
    table = np.random.default_rng(0).random(1_000_003)
    product_shares = [(np.roll(table, seed)[products % len(table)] < 1 / 50).mean() for seed in range(10)]
    ours = [drop_mask(zipf_ids(32_000, 200_000, seed)[None, :], 50, 50, bos=None).mean() for seed in range(5)]
    error = math.sqrt(0.02 * 0.98 / 200_000)
    assert max(abs(share - 0.02) for share in product_shares) > 10 * error
    assert max(abs(share - 0.02) for share in ours) < 4.5 * error


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_a_passage_loses_the_same_tokens_wherever_it_stands(data: st.DataObject) -> None:
    context, k = data.draw(st.integers(1, 64)), data.draw(st.integers(2, 6))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    passage = generator.integers(2, 50_000, context + data.draw(st.integers(1, 80)))
    found = []
    for _ in range(3):  # in windows of other rows, other lengths, at other places, in documents of other lengths
        rows = generator.integers(2, 50_000, (data.draw(st.integers(1, 4)), len(passage) + data.draw(st.integers(0, 300))))
        row, column = generator.integers(0, len(rows)), generator.integers(0, rows.shape[1] - len(passage) + 1)
        if column:
            rows[row, generator.integers(0, column)] = BOS
        rows[row, column : column + len(passage)] = passage
        found.append(drop_mask(rows, k, context, bos=BOS)[row, column + context - 1 : column + len(passage) - 1])
    assert (found[0] == found[1]).all()
    assert (found[0] == found[2]).all()


def test_a_document_that_comes_twice_loses_the_same_tokens_from_its_second_on() -> None:
    generator = np.random.default_rng(0)
    document = np.r_[BOS, generator.integers(2, 1000, 40)]
    rows = generator.integers(2, 1000, (2, 200))
    rows[0, 7 : 7 + len(document)] = document
    rows[1, 120 : 120 + len(document)] = document
    dropped = drop_mask(rows, 3, 50, bos=BOS)  # no target of a document of 41 tokens has 50 tokens before it
    first, second = dropped[0, 7 : 7 + len(document) - 1], dropped[1, 120 : 120 + len(document) - 1]
    assert (first == second).all()
    assert first.any()
    assert not first.all()


@pytest.mark.parametrize("bos", [BOS, None])
def test_the_first_tokens_of_windows_and_documents_lose_as_many(bos: int | None) -> None:
    rows = np.random.default_rng(0).integers(2, 2**31 - 2, (20_000, 33))  # so many ids that no context comes twice, even of one token
    rows[:, 16] = BOS
    shares = drop_mask(rows, 4, 50, bos=bos).mean(axis=0)
    whole = np.ones(32, dtype=bool)
    if bos is not None:
        whole[16] = False
    assert (np.abs(shares[whole] - 0.25) < 4.5 * math.sqrt(0.25 * 0.75 / len(rows))).all()


@pytest.mark.parametrize("bos", range(2, 12))
def test_the_first_token_of_a_document_is_always_learnt(bos: int) -> None:
    rows = np.random.default_rng(0).integers(12, 30_000, (20, 33))
    rows[:, [0, 9]] = bos
    dropped = drop_mask(rows, 2, 50, bos=bos)
    assert not dropped[:, [0, 9]].any()
    assert dropped[:, [1, 10]].any()


def test_the_mask_is_that_of_the_definition() -> None:
    # the same numbers from Python's own integers: a change of the hash would change what running models leave out
    prime, bases = 2**31 - 1, (1_270_390_213, 846_930_887)

    def mixed(value: int) -> int:
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
        return value ^ (value >> 31)

    rows = np.random.default_rng(5).integers(0, 2**31 - 2, (3, 130))
    rows[0, :70] = 0
    rows[1, 20], rows[1, 23], rows[2, 0] = BOS, BOS, BOS
    rows[2, 1:] = 2**31 - 3
    for context in (1, 7, 64, 200):
        dropped = drop_mask(rows, 5, context, bos=BOS)
        for row, column in np.ndindex(3, 129):
            seen: list[int] = []
            for token in rows[row, column::-1].tolist() if column else [int(rows[row, 0])]:  # backwards from the last
                seen.append(token + 1)
                if len(seen) == context or token == BOS:
                    break
            hashes = [sum(token * pow(base, -back, prime) for back, token in enumerate(seen)) % prime for base in bases]
            expected = rows[row, column] != BOS and mixed(hashes[0] << 31 | hashes[1]) < 2**64 // 5
            assert dropped[row, column] == expected, (context, row, column)


def test_one_row_or_many_any_type_of_ids() -> None:
    rows = zipf_ids(1000, 300 * 129).reshape(300, 129)
    rows[np.random.default_rng(0).random(rows.shape) < 0.02] = BOS
    whole = drop_mask(rows, 4, 50, bos=BOS)
    assert whole.shape == (300, 128)
    assert whole.dtype == np.bool_
    for kind in (np.uint16, np.int32):
        assert (drop_mask(rows.astype(kind), 4, 50, bos=BOS) == whole).all()
    for row in (0, 127, 299):
        assert (drop_mask(rows[row : row + 1], 4, 50, bos=BOS) == whole[row]).all()
    assert drop_mask(rows[:0], 4, 50, bos=BOS).shape == (0, 128)
