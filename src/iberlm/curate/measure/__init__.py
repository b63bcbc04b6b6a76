"""What is measured of texts in compiled loops over Arrow buffers: statistics, hashes, word n-grams."""
