"""How good an encoder is: probes of its features with labels, and figures of its embeddings without."""
