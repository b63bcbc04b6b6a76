"""Before and after: the loss on held-out answers and one greedy answer a language."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from iberlm.finetune import chat
from iberlm.finetune.config import FinetuneConfig

IGNORED = -100


@dataclass(frozen=True)
class HeldOut:
    """Rows that are never trained on: ids and answer marks by language, and one prompt a language."""

    encoded: dict[str, list[tuple[list[int], list[int]]]]
    prompts: dict[str, tuple[str, list[int]]]
    """The last question as text, and all the ids that lead to its answer."""

    @classmethod
    def read(cls, rows: Any, tokenizer: Any) -> "HeldOut":
        """From the rows of `validation.arrow`; the prompt of a language is that of its first row."""
        encoded: dict[str, list[tuple[list[int], list[int]]]] = defaultdict(list)
        prompts: dict[str, tuple[str, list[int]]] = {}
        for row in rows:
            encoded[row["language"]].append((row["input_ids"], row["assistant_masks"]))
            if row["language"] not in prompts:
                leading = row["messages"][:-1]
                prompts[row["language"]] = (leading[-1]["content"], chat.encode_prompt(tokenizer, leading))
        return cls(dict(sorted(encoded.items())), dict(sorted(prompts.items())))


@dataclass(frozen=True)
class Measured:
    """Mean negative log-likelihood (nats) an answer token, and the answer and whether it came to its end, by language."""

    loss: dict[str, float]
    answers: dict[str, tuple[str, bool]]


@dataclass(frozen=True)
class Meter:
    """Measures a model on the same rows and prompts each time."""

    config: FinetuneConfig
    tokenizer: Any
    stop: list[int]
    sequence_length: int
    held_out: HeldOut

    @torch.no_grad()
    def measure(self, model: Any) -> Measured:
        """Loss and answers of a model, left in the mode (training or not) that it was in."""
        training = model.training
        model.eval()
        with torch.autocast(model.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            loss = {language: self._loss(model, rows) for language, rows in self.held_out.encoded.items()}
            answers = {language: self._answer(model, ids) for language, (_, ids) in self.held_out.prompts.items()}
        model.train(training)
        return Measured(loss, answers)

    def samples(self, before: Measured, after: Measured) -> list[dict[str, Any]]:
        """One entry a language; `stopped` tells whether the answer after training ended by itself."""
        return [
            {
                "language": language,
                "prompt": prompt,
                "before": before.answers[language][0],
                "after": after.answers[language][0],
                "stopped": after.answers[language][1],
            }
            for language, (prompt, _) in self.held_out.prompts.items()
        ]

    def _loss(self, model: Any, rows: list[tuple[list[int], list[int]]]) -> float:
        total, tokens = 0.0, 0
        ordered = sorted(rows, key=lambda row: len(row[0]))  # rows of like length together: less padding
        for begin in range(0, len(ordered), self.config.micro_batch_size):
            batch = [(ids[: self.sequence_length], marks[: self.sequence_length]) for ids, marks in ordered[begin : begin + self.config.micro_batch_size]]
            width = max(len(ids) for ids, _ in batch)
            ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in batch], device=model.device)
            marks = torch.tensor([marks + [0] * (width - len(marks)) for _, marks in batch], device=model.device)
            mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in batch], device=model.device)
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
            targets = torch.where(marks.bool(), ids, IGNORED)[:, 1:]
            total += functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum").item()
            tokens += int((targets != IGNORED).sum())
        return total / tokens

    def _answer(self, model: Any, prompt: list[int]) -> tuple[str, bool]:
        ids = torch.tensor([prompt], device=model.device)
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.stop[0]
        drawn = self.config.temperature > 0
        with torch.random.fork_rng():  # generate draws from the global generator
            torch.manual_seed(self.config.seed)
            output = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=drawn,
                num_beams=1,
                temperature=self.config.temperature if drawn else None,
                top_p=None,
                top_k=None,
                max_new_tokens=self.config.max_new_tokens,
                eos_token_id=self.stop,
                pad_token_id=pad,
            )
        new = output[0, len(prompt) :].tolist()
        stopped = bool(new) and new[-1] in self.stop
        return self.tokenizer.decode(new, skip_special_tokens=True).strip(), stopped
