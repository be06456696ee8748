"""Plain PyTorch definitions of every operator: what the kernels must compute. Written to be read."""
