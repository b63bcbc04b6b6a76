"""What training a tokenizer, and tokenization, need from elsewhere."""

from iberlm.core.needs import TOKENIZER, Need, folder_need, path_need
from iberlm.tokenizer.config import TokenizeConfig, TrainTokenizerConfig


def needs(config: TrainTokenizerConfig | TokenizeConfig) -> list[Need]:
    """The documents; the tokenizer that is extended, kept, compared with, or used."""
    documents = [path_need(config.documents, "documents")] if config.documents else []
    if isinstance(config, TokenizeConfig):
        return documents + ([path_need(config.tokenizer_folder, "tokenizer_folder")] if config.tokenizer_folder else [])
    found = documents + folder_need(TOKENIZER, config.tokenizer.base, "tokenizer.base")
    for index, place in enumerate(config.compare):
        found += folder_need(TOKENIZER, place, f"compare[{index}]")
    return found + ([path_need(config.parallel, "parallel")] if config.parallel else [])
