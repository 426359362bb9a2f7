"""The training studio: make data, read data, train, measure, export. A client of `cinescene_core`."""

__version__ = "0.1.0"
