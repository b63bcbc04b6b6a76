"""Supervised fine-tuning of a model folder on conversations, whole or through LoRA."""
