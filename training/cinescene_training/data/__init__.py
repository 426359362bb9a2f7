"""Datasets: reading, calibrating, splitting, caching."""
