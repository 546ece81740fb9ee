"""The library beneath the book: what five studies say a neural network should not learn."""

__version__ = "0.1.0"
