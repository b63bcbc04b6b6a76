"""IberLM: a training toolkit for language models in Spanish, Catalan, Valencian, Basque and Galician."""

__version__ = "0.1.0"
