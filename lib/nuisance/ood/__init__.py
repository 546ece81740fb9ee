"""Scores of how anomalous an image is to a classifier, one file each."""
