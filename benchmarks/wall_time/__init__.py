"""Seconds of a forward on this machine's CPU: each context mode, beside the same network of diffusers' own blocks."""
