"""A training run of four steps with two checkpoints and a curated folder: what `iberlm watch` looks at."""

from pathlib import Path

from iberlm.train import pretrain
from iberlm.train.config_groups import CheckpointConfig, ModelConfig
from tests.evaluate.tiny import sample_texts, write_validation
from tests.train.conftest import VOCABULARY, make_store, make_tokenizer, tiny

SETTINGS = ["suite=sample", "suite.tasks=[minimal_pairs,bits_per_byte]", "suite.languages=[es]", "limit=2", "device=cpu"]


def trained(run_dir: Path) -> Path:
    """Train into RUN_DIR/pretrain; returns RUN_DIR."""
    tokenizer = make_tokenizer(run_dir / "train_tokenizer")
    store = make_store(run_dir / "tokenize", tokenizer, {"es": 20})
    write_validation(run_dir / "curate", {"es": [text[:300] for text in sample_texts("es")[:3]]})
    shape = {"hidden_size": 32, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_size": 64, "max_position_embeddings": 256, "initializer_range": 0.1}
    model = ModelConfig(name="tiny", vocabulary_size=VOCABULARY, **shape)
    config = tiny(model=model, steps=4, tracker="none", prompts={"es": "La casa"}, checkpoint=CheckpointConfig(every_steps=2, keep_last=5))
    pretrain.run(config, [store, tokenizer], run_dir / "pretrain")
    return run_dir
