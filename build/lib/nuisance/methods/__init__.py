"""The methods of the studies and their peers, one a file: ``update(batch) -> dict``, ``predict(pixels)``."""
