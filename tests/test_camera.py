"""What stands between us and libgphoto2: cameras' own words for numbers, and failures with a remedy."""

from __future__ import annotations

import pytest
from fake_gphoto2 import fake_gp

from srraw_tools.camera import choice_for, connect, number_of
from srraw_tools.errors import UserError


@pytest.mark.parametrize(
    ("code", "says"), [(-53, "gio mount"), (-105, "PC Remote"), (-7, "cable"), (-999, "-999")]
)
def test_every_failure_to_connect_has_a_remedy(code, says):
    with pytest.raises(UserError, match=says) as caught:
        connect(fake_gp([], {}, init=[code]))
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("f/20", 20),
        ("20", 20),
        ("1/60", 1 / 60),
        ("0.0166s", 0.0166),
        ("4/10", 0.4),
        ("0.3", 0.3),
        ("35 mm", 35),
    ],
)
def test_cameras_words_are_compared_as_numbers(word, number):
    assert number_of(word) == pytest.approx(number)


@pytest.mark.parametrize("word", ["Auto", "bulb", "1/0", ""])
def test_words_without_a_number_have_none(word):
    assert number_of(word) is None


def test_the_nearest_choice_is_taken_only_if_it_is_the_same_but_for_rounding():
    choices = ("Auto", "1/30", "0.0166s", "1/125")
    assert choice_for(choices, 1 / 60, 0.04) == "0.0166s"
    assert choice_for(choices, 1 / 80, 0.04) is None
    assert choice_for((), 1 / 60, 0.04) is None
