"""Tokenizer: train it, measure it, and turn documents into a token store."""
