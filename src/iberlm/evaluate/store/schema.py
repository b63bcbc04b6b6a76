"""Columns of the result store and the key under which an answer is found again.

An answer belongs to its key: the same weights, asked the same rendered request of the same version of a task, with as many
solved examples, in the same chat template, by the same backend in the same type of number. Nothing else is in the key: the
batch size, the device and the versions of the libraries stand beside the answer.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from iberlm.core.files import sha256_json

FORMAT = 1
"""Version of these columns. A store of a higher one is not read, nor written to."""
KEY = ("model", "task", "version", "prompt_hash", "num_fewshot", "template", "backend", "dtype")

ITEM_SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # SHA-256 over the columns of KEY
        ("model", pa.string()),  # SHA-256 over weights, config.json and tokenizer; of a server over what it says of itself
        ("task", pa.string()),
        ("version", pa.string()),  # of the task
        ("prompt_hash", pa.string()),  # SHA-256 over all requests of the item, as the model is given them
        ("num_fewshot", pa.int32()),
        ("template", pa.string()),  # "none", or the SHA-256 of the chat template and the system instruction
        ("backend", pa.string()),  # transformers, vllm or openai
        ("dtype", pa.string()),  # float32, bfloat16, float16; of a server "unknown"
        # what was asked
        ("task_key", pa.string()),  # SHA-256 over all that decides the requests: task files, data, shots, seed, template, lm-eval
        ("language", pa.string()),  # BCP 47
        ("family", pa.string()),
        ("item", pa.int32()),  # its place in the task's split
        ("id", pa.string()),  # its own name where it has one, else the place
        ("item_hash", pa.string()),  # SHA-256 of the record
        ("cluster", pa.string()),  # items of one cluster share a passage; null where each stands alone
        ("group", pa.string()),  # phenomenon, pattern or subject; null without
        ("prompt", pa.string()),  # what stands before the answer, of the first request
        ("choices", pa.list_(pa.string())),  # empty for what is generated
        ("target", pa.string()),  # text; of a multiple choice the index of the right one
        # what came
        ("responses", pa.string()),  # JSON: a request each, [log-likelihood in nats, is greedy], a log-likelihood, or the text
        ("prediction", pa.string()),  # as target; null for likelihoods of a text
        ("metrics", pa.string()),  # JSON {"metric,filter": value}, what the task's aggregation is given of this item
        ("score", pa.float64()),  # of the task's primary metric; null where an item has none of its own (BLEU of a corpus)
        ("weight", pa.float64()),  # of the score in the task's value: UTF-8 bytes for bits per byte, else 1
        ("truncated", pa.bool_()),  # a request was longer than the context, and its beginning was cut off
        # how
        ("created", pa.float64()),  # seconds since 1970
        ("model_name", pa.string()),  # as the user called it
        ("device", pa.string()),
        ("batch", pa.string()),  # "16 sequences" or "8192 tokens"
        ("software", pa.string()),  # JSON {"lm_eval": "0.4.13", ...}
    ]
)

RESULT_SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("model_name", pa.string()),
        ("parameters", pa.int64()),  # null where nobody knows
        ("task", pa.string()),
        ("version", pa.string()),
        ("task_key", pa.string()),
        ("suite", pa.string()),
        ("language", pa.string()),
        ("family", pa.string()),
        ("measures", pa.string()),  # reading, commonsense, ... (eval/catalogue/measures)
        ("group", pa.string()),  # "" for the whole task, else one of its groups
        ("metric", pa.string()),  # "acc", or "exact_match,flexible-extract" with a filter
        ("aggregation", pa.string()),  # lm-eval's name of it; "custom" for a function of the task's
        ("primary", pa.bool_()),  # the metric of the tables
        ("value", pa.float64()),
        ("stderr", pa.float64()),  # null where there is none
        ("low", pa.float64()),  # ends of the 95% interval
        ("high", pa.float64()),
        ("n", pa.int64()),
        ("clusters", pa.int64()),  # n where every item stands alone
        ("chance", pa.float64()),  # value of guessing; null where there is none
        ("best", pa.float64()),  # highest value there can be
        ("higher_is_better", pa.bool_()),
        ("averaged", pa.bool_()),  # counts in the language's mean: a normalised score of enough items
        ("clean_n", pa.int64()),  # items that the training corpus does not hold; null where nobody looked
        ("clean_value", pa.float64()),
        ("clean_low", pa.float64()),
        ("clean_high", pa.float64()),
        ("num_fewshot", pa.int32()),
        ("template", pa.string()),
        ("backend", pa.string()),
        ("dtype", pa.string()),
        ("limit", pa.int64()),  # items asked for; 0 for all
        ("seed", pa.int64()),
        ("prompts_hash", pa.string()),  # SHA-256 over the items' prompt hashes in order
        ("dataset", pa.string()),
        ("revision", pa.string()),
        ("licence", pa.string()),
        ("synthetic", pa.bool_()),
        ("human_reviewed", pa.bool_()),
        ("note", pa.string()),  # alarms: what makes the value doubtful; null without
        ("command", pa.string()),  # that gives the number again
        ("device", pa.string()),
        ("batch", pa.string()),
        ("software", pa.string()),  # JSON
        ("step", pa.int64()),  # training step of the checkpoint; null for what is none
        ("created", pa.float64()),
    ]
)
RESULT_KEY = ("model", "task", "version", "task_key", "group", "metric", "backend", "dtype")
"""Of rows that agree in these the newest is true."""


def item_key(row: Mapping[str, Any]) -> str:
    """The key of an item's answer."""
    return sha256_json([row[name] for name in KEY])
