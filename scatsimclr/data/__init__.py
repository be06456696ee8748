"""Data sets as resident uint8 arrays, and the augmentation pipelines that read them."""
