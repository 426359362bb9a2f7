"""Training of the networks in front of the transformer, on rendered rooms: scene encoder (VGGT) and video VAE."""
