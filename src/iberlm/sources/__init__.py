"""Where raw files come from: the embedded sample, local paths, Hugging Face data sets, Debian packages."""
