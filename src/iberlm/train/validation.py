"""Loss and bits a byte of each language on the validation split."""

import math
from typing import TYPE_CHECKING

import torch

from iberlm.core.progress import say
from iberlm.train.data import IGNORED, validation_batches, validation_windows
from iberlm.train.files import VALIDATION
from iberlm.train.metrics import append_line
from iberlm.train.strategy import Parallel

if TYPE_CHECKING:
    from iberlm.train.loop import Run


@torch.no_grad()
def validate(run: "Run", done: int) -> dict[str, dict[str, float]]:
    """Mean loss (nats a token) and bits a byte of each language of the validation split. All ranks call this.

    Bits a byte are comparable between tokenizers, and with the unigram baseline and the evaluation: all three leave BOS and
    EOS out. Documents are masked from each other as in training, and cut where a window of `sequence_length` ends, so the
    figures differ a little from the evaluation's. With `validation_tokens`, bytes are counted in proportion to the tokens read.
    """
    parallel, config, results = run.parallel, run.config, {}
    for tag, store in run.validation.items():
        windows = validation_windows(store, config.sequence_length, config.validation_tokens)
        sums = torch.zeros(2, dtype=torch.float64, device=parallel.device)
        batches = validation_batches(
            store,
            windows,
            config.sequence_length,
            config.micro_batch_size,
            parallel.data_rank,
            parallel.data_world,
            run.ends,
            document_masking=config.objective.document_masking,
        )
        for arrays in batches:
            run.watchdog.beat(done, "validation")
            inputs, targets, positions = torch.from_numpy(arrays).to(parallel.device)
            losses = token_losses(parallel, inputs, targets, positions)
            sums += torch.stack([losses.sum(dtype=torch.float64), (parallel.slice_sequence(targets) != IGNORED).sum().double()])
        nats, tokens = parallel.all_reduce(sums).tolist()
        if tokens:
            read_bytes = run.validation_bytes[tag] * windows[-1][1] / len(store)
            results[tag] = {"loss": nats / tokens, "bits_per_byte": nats / math.log(2) / read_bytes}
    if parallel.rank == 0 and results:
        append_line(run.out / VALIDATION, {"step": done, "validation": results})
        say(f"pretrain: step {done} validation, bits a byte: " + ", ".join(f"{tag} {value['bits_per_byte']:.4f}" for tag, value in results.items()))
    return results


def token_losses(parallel: Parallel, inputs: torch.Tensor, targets: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats of this rank's part of whole rows (int64[rows, sequence_length] each), float32[n]; 0 where the target is `IGNORED`."""
    cut = parallel.slice_sequence
    losses: torch.Tensor = parallel.model(inputs=cut(inputs), targets=cut(targets), positions=cut(positions), whole_positions=positions, reduce=False)
    return losses


def mean_bits_per_byte(results: dict[str, dict[str, float]]) -> float | None:
    """Mean over the languages, each alike; None when nothing was validated."""
    return sum(value["bits_per_byte"] for value in results.values()) / len(results) if results else None
