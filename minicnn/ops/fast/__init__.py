"""The operations as compiled, multi-threaded kernels; imported at the first use of any of them."""
