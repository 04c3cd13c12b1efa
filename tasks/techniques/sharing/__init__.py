"""Weight sharing: weights take few values, stored as short numbers of codebook entries."""
