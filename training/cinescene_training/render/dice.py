"""Random numbers that are the same on every machine: one stream per seed and purpose."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Dice:
    """PCG64, read only through uniform doubles, so that no version of numpy changes what is drawn."""

    def __init__(self, seed: int, purpose: int = 0) -> None:
        """Start the stream of a seed (0 or more); another `purpose` is an independent stream.

        Raises:
            ValueError: the seed is negative.
        """
        if seed < 0:
            raise ValueError(f"A place's seed must be 0 or more; got {seed}. Take one from `place_seed`.")
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, purpose])))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number between `low` and `high`."""
        return low + (high - low) * float(self._generator.random())

    def integer(self, count: int) -> int:
        """One of 0 .. count - 1."""
        return min(int(self.uniform(0, count)), count - 1)

    def chance(self, probability: float) -> bool:
        """True that often."""
        return self.uniform() < probability

    def choice(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[self.integer(len(items))]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different items in random order."""
        left = list(items)
        return [left.pop(self.integer(len(left))) for _ in range(count)]
