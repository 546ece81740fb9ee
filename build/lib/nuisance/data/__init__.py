"""Data sets as tensors on the device: images, labels, attributes."""
