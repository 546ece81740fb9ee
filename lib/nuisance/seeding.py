"""Determinism: the same seed on the same machine gives the same bits."""

import torch


def deterministic() -> None:
    """One thread a process, and no search for the fastest convolution.

    The order in which threads add changes the last bits of a sum, so a run has one thread a process and as
    many processes as cores. With one thread PyTorch's CPU kernels give the same bits every time; on a GPU some
    sums are still added in any order, and runs agree only nearly.
    """
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False  # 10 bits of mantissa are not float32


def generator(seed: int, *purpose: int) -> torch.Generator:
    """A random stream of its own for every purpose of a seed.

    Streams that are cut from one generator would shift as soon as an earlier one is drawn from
    more often; seeds that are added up collide.
    """
    mixed = 0x9E3779B97F4A7C15
    for part in (seed, *purpose):
        mixed = ((mixed ^ (part + 0x7F4A7C15)) * 0xBF58476D1CE4E5B9) & (2**63 - 1)
        mixed ^= mixed >> 31
    return torch.Generator().manual_seed(mixed)


def seed_weights(seed: int, *purpose: int) -> None:
    """Start PyTorch's global stream, from which networks draw their first weights, for a purpose of a seed."""
    torch.manual_seed(int(torch.randint(2**31, (), generator=generator(seed, *purpose))))
