"""Speed measured beside PyTorch in one interleaved run, after checking that the results agree."""
