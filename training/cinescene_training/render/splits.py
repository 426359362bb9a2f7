"""Which seeds belong to training, validation and test: ranges that never meet."""

from collections.abc import Mapping
from types import MappingProxyType

from cinescene_core.checks import check_choice

SPLIT_SEEDS: Mapping[str, range] = MappingProxyType(
    {
        "train": range(0, 2**40),
        "validation": range(2**40, 2**40 + 2**20),
        "test": range(2**41, 2**41 + 2**20),
    }
)
"""Seeds of each split. A place's seed decides everything about it, so disjoint seeds are disjoint places."""


def place_seed(split: str, index: int) -> int:
    """The seed of a split's place number `index`, counted from 0.

    Raises:
        ValueError: no such split, or the split has no place of that number.
    """
    check_choice("split", split, SPLIT_SEEDS)
    seeds = SPLIT_SEEDS[split]
    if not 0 <= index < len(seeds):
        raise ValueError(
            f"The {split} split has places 0 to {len(seeds) - 1}; got place {index}. Ask for one of those."
        )
    return seeds[index]
