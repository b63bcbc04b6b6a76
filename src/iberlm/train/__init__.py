"""Pretraining: data order as a function, the model, parallel strategies, the loop, checkpoints."""
