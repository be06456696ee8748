"""How good an encoder is: linear probe, few-label probe and kNN on its features."""
