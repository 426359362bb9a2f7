"""Hold-out: no environment on two sides, whatever is asked for."""

import pytest

from cinescene_training.data.footage import PlaceItem
from cinescene_training.data.split import hold_out


def dataset(sizes):
    """As many places per environment as `sizes` says; environments and places are not in step by name."""
    return [
        PlaceItem(name=f"scene{place}_{number}", environment=f"env{number}")
        for number, size in enumerate(sizes)
        for place in range(size)
    ]


def environments_of(side, places):
    home = {place.name: place.environment for place in places}
    return {home[name] for name in side}


@pytest.mark.parametrize("seed", range(20))
def test_every_place_is_on_one_side_and_every_environment_too(seed):
    places = dataset([3, 1, 7, 2, 5, 4, 6, 2, 9, 1])
    split = hold_out(places, validation=0.1, test=0.2, seed=seed)
    assert sorted([*split.train, *split.validation, *split.test]) == sorted(place.name for place in places)
    sides = [environments_of(side, places) for side in (split.train, split.validation, split.test)]
    assert all(sides)
    assert sum(map(len, sides)) == len(set().union(*sides)) == 10


def test_shares_are_met_where_environments_allow():
    """35 environments of about 95 places, as the released dataset has: a side is off by half an environment at most."""
    places = dataset([95] * 35)
    split = hold_out(places, validation=0.05, test=0.1, seed=3)
    assert abs(len(split.validation) - 0.05 * 3325) <= 48
    assert abs(len(split.test) - 0.1 * 3325) <= 48


def test_the_answer_depends_on_the_seed_and_not_on_the_order():
    places = dataset([2] * 30)
    first = hold_out(places, validation=0.1, test=0.1, seed=7)
    assert hold_out(places[::-1], validation=0.1, test=0.1, seed=7) == first
    others = {hold_out(places, validation=0.1, test=0.1, seed=seed).test for seed in range(5)}
    assert len(others) == 5


def test_a_share_of_nothing_leaves_a_side_empty():
    places = dataset([1, 1, 1])
    split = hold_out(places, validation=0, test=0.34)
    assert (len(split.train), split.validation, len(split.test)) == (2, (), 1)


def test_a_small_share_still_takes_one_environment():
    split = hold_out(dataset([50, 30, 40]), validation=0.0, test=0.01)
    assert len(split.test) == 30  # the one that is nearest to a single place


def test_environments_and_whole_sets_of_places_can_be_named():
    places = dataset([2, 2, 3])
    split = hold_out(places, validation=["scene0_1", "scene1_1"], test=["env2"])
    assert split.test == ("scene0_2", "scene1_2", "scene2_2")
    assert split.validation == ("scene0_1", "scene1_1")
    assert split.train == ("scene0_0", "scene1_0")


def test_names_and_shares_mix():
    places = dataset([2] * 6)
    split = hold_out(places, validation=0.2, test=["env4"], seed=1)
    assert environments_of(split.test, places) == {"env4"}
    assert len(split.validation) == 2
    assert "env4" not in environments_of(split.validation, places) | environments_of(split.train, places)


@pytest.mark.parametrize(
    ("sizes", "asked", "sentence"),
    [
        ([2, 2], {"validation": 1.0, "test": 0}, "share to hold out for validation must be from 0 to below 1; got 1.0"),
        ([2, 2], {"validation": 0, "test": -0.1}, "share to hold out for test must be from 0 to below 1; got -0.1"),
        ([2, 2], {"validation": 0, "test": float("nan")}, "share to hold out for test"),
        ([9], {"validation": 0, "test": 0.1}, "from 1 environments, and 1 of them are left for training and test"),
        ([2, 2], {"validation": 0.1, "test": 0.1}, "2 of them are left for training and test and validation"),
        ([2, 2], {"validation": ["env0"], "test": ["env1"]}, "0 of them are left for training, which need one each"),
        (
            [2, 2],
            {"validation": 0, "test": ["env7"]},
            r"no place or environment called 'env7' to hold out for test; the",
        ),
        ([2, 2, 1], {"validation": ["env1"], "test": ["env1"]}, "env1 is named for validation and for test"),
        (
            [3, 1],
            {"validation": 0, "test": ["scene1_0"]},
            "scene1_0 for test leaves 2 places of its environment env0 to another side, scene0_0 the first",
        ),
    ],
)
def test_what_cannot_be_held_out_is_said(sizes, asked, sentence):
    with pytest.raises(ValueError, match=sentence):
        hold_out(dataset(sizes), **asked)


def test_a_place_listed_twice_is_refused():
    with pytest.raises(ValueError, match="The place scene0_0 is listed twice"):
        hold_out([*dataset([2, 1]), *dataset([1])], validation=0, test=0.3)
