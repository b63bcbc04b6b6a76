"""litgpt's own `pretrain`, for `benchmarks/pretrain.py`: runs in the Python that has litgpt, and imports nothing of this project.

    python pretrain_litgpt.py JOB.json

Everything is litgpt's own (its model, compiled as a whole, its precision, AdamW, gradient clipping, a console line a step) but the data module,
which reads the same ids as the other sides in this process, and what must be alike: shape, sequence length, batch, steps.
"""

import itertools
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from litgpt import pretrain
from litgpt.args import EvalArgs, TrainArgs
from litgpt.config import Config
from litgpt.data import DataModule
from torch.utils.data import DataLoader, Dataset


class Windows(Dataset):
    """Windows of sequence_length + 1 ids; notes when each was asked for."""

    def __init__(self, job):
        self.ids, self.length = np.memmap(job["ids"], dtype=job["dtype"], mode="r"), job["sequence_length"]
        self.now, self.asked, self.wall = getattr(time, job["clock"]), [], []

    def __len__(self):
        return (len(self.ids) - 1) // self.length

    def __getitem__(self, index):
        self.asked.append(self.now())
        self.wall.append(time.monotonic())
        return torch.from_numpy(self.ids[index * self.length : (index + 1) * self.length + 1].astype(np.int64))


class Data(DataModule):
    """The data module that litgpt asks for."""

    def __init__(self, job):
        super().__init__()
        self.job, self.train = job, Windows(job)

    def connect(self, tokenizer=None, batch_size=1, max_seq_length=None):
        self.batch_size = batch_size

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=self.batch_size, drop_last=True)

    def val_dataloader(self):
        return DataLoader(Windows(self.job), batch_size=self.batch_size)


def settings(model, sequence_length):
    """litgpt's configuration of a Llama whose shape is given as `transformers.LlamaConfig` settings."""
    return Config(
        name="benchmark",
        block_size=sequence_length,
        n_layer=model["num_hidden_layers"],
        n_embd=model["hidden_size"],
        n_head=model["num_attention_heads"],
        n_query_groups=model["num_key_value_heads"],
        vocab_size=model["vocab_size"],
        padded_vocab_size=model["vocab_size"],
        intermediate_size=model["intermediate_size"],
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        norm_eps=model["rms_norm_eps"],
        mlp_class_name="LLaMAMLP",
    )


def main():
    """Train, and write the seconds of each step."""
    job = json.loads(Path(sys.argv[1]).read_text())
    data, samples = Data(job), job["micro_batch_size"] * job["accumulation"]
    pretrain.setup(
        model_name="benchmark",
        model_config=settings(job["model"], job["sequence_length"]),
        out_dir=Path(job["folder"]) / "litgpt",
        data=data,
        train=TrainArgs(
            save_interval=1_000_000,
            log_interval=1,
            global_batch_size=samples,
            micro_batch_size=job["micro_batch_size"],
            max_tokens=job["steps"] * samples * job["sequence_length"],
            max_norm=1.0,
            lr_warmup_steps=1,
            tie_embeddings=job["model"]["tie_word_embeddings"],
        ),
        eval=EvalArgs(interval=1_000_000, max_iters=1, initial_validation=False, final_validation=False),
        devices=1,
        logger_name="csv",
        seed=0,
    )
    # a step begins when its first window is asked for; the loop asks for one batch more than it trains on, which ends the last
    begins = data.train.asked[::samples][: job["steps"] + 1]
    seconds = [later - sooner for sooner, later in itertools.pairwise(begins)]
    versions = {name: version(name) for name in ("litgpt", "lightning", "torch")}
    result = {"seconds": seconds, "first": data.train.wall[samples] - job["spawned"], "versions": versions}
    Path(job["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
