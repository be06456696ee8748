"""Plain PyTorch definitions of every operator: the semantics of record. Written to be read."""
