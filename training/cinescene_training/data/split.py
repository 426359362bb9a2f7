"""Hold-out by environment: places that share their looks stay on one side."""

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from .footage import PlaceItem


@dataclass(frozen=True)
class Split:
    """Names of the places to train, validate and test on, each side in alphabetical order."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def hold_out(
    places: Sequence[PlaceItem],
    *,
    validation: float | Collection[str],
    test: float | Collection[str],
    seed: int = 0,
) -> Split:
    """Divide places into three sides so that no environment stands on two.

    The answer depends on the names and the seed, not on the order of the places. The paper tests on 300 held-out
    samples (section 5.1); the released dataset has no official split.

    Args:
        places: the places of a dataset.
        validation, test: a share of the places from 0 to below 1, met as nearly as whole environments allow; or
            the names of environments, or of places that make up whole environments.
        seed: which environments a share falls on.

    Raises:
        ValueError: a place is listed twice, a share is out of range, a name is unknown or leaves a part of its
            environment on another side, both sides name one environment, or there are too few environments.
    """
    environments: dict[str, list[str]] = defaultdict(list)
    for place in sorted(places, key=lambda item: item.name):
        environments[place.environment].append(place.name)
    twice = [name for name, count in Counter(place.name for place in places).items() if count > 1]
    if twice:
        raise ValueError(f"The place {twice[0]} is listed twice. Every place needs a name of its own.")
    wanted = {"test": test, "validation": validation}
    for side, share in wanted.items():
        if isinstance(share, float | int) and not 0 <= share < 1:
            raise ValueError(f"The share to hold out for {side} must be from 0 to below 1; got {share}. Use 0.05.")
    sides = {
        side: _named(side, share, environments) for side, share in wanted.items() if not isinstance(share, float | int)
    }
    _refuse_shared(sides)
    free = sorted(set(environments) - {name for names in sides.values() for name in names})
    random.Random(seed).shuffle(free)
    shares = {side: share for side, share in wanted.items() if isinstance(share, float | int) and share > 0}
    if len(free) <= len(shares):
        raise ValueError(
            f"Places come from {len(environments)} environments, and {len(free)} of them are left for "
            f"{' and '.join(['training', *shares])}, which need one each. Add places of other environments or hold "
            "out fewer sides."
        )
    for number, (side, share) in enumerate(shares.items()):
        others = len(shares) - number  # the sides still to come, and training, need an environment each
        sides[side] = _nearest(free, len(free) - others, share * len(places), environments)
        free = [name for name in free if name not in sides[side]]
    return Split(
        train=_places(free, environments),
        validation=_places(sides.get("validation", ()), environments),
        test=_places(sides.get("test", ()), environments),
    )


def _named(side: str, names: Collection[str], environments: dict[str, list[str]]) -> tuple[str, ...]:
    """The environments that `names`, of environments or places, make up."""
    if isinstance(names, str):
        names = [names]
    home = {place: environment for environment, members in environments.items() for place in members}
    chosen: set[str] = set()
    for name in names:
        if name in environments:
            chosen.add(name)
        elif name in home:
            rest = [place for place in environments[home[name]] if place not in names]
            if rest:
                raise ValueError(
                    f"Holding out {name} for {side} leaves {len(rest)} places of its environment {home[name]} to "
                    f"another side, {rest[0]} the first. Name the environment instead."
                )
            chosen.add(home[name])
        else:
            raise ValueError(
                f"There is no place or environment called {name!r} to hold out for {side}; the dataset has "
                f"{len(home)} places of {len(environments)} environments. Check the spelling."
            )
    return tuple(sorted(chosen))


def _refuse_shared(sides: dict[str, tuple[str, ...]]) -> None:
    shared = set(sides.get("test", ())) & set(sides.get("validation", ()))
    if shared:
        raise ValueError(f"The environment {min(shared)} is named for validation and for test. Keep it on one side.")


def _nearest(candidates: list[str], most: int, target: float, environments: dict[str, list[str]]) -> tuple[str, ...]:
    """One to `most` environments, taken in the order given, whose number of places comes near `target`."""
    chosen: list[str] = []
    total = 0
    for name in candidates:
        size = len(environments[name])
        if len(chosen) < most and abs(total + size - target) < abs(total - target):
            chosen.append(name)
            total += size
    return tuple(chosen) or (min(candidates, key=lambda name: len(environments[name])),)


def _places(names: Collection[str], environments: dict[str, list[str]]) -> tuple[str, ...]:
    return tuple(sorted(place for name in names for place in environments[name]))
