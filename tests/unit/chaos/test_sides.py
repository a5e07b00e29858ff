"""What of a copy are its author's own words."""

from tests.chaos.sides import own_words


def test_what_the_relay_puts_around_the_words_is_not_part_of_them() -> None:
    assert own_words("d1.0 tea") == ["d1.0 tea"]
    assert own_words("> [↪ Ada](<https://discord.com/channels/1/2/3>): m7.0 rain\nm8.0 tea") == ["m8.0 tea"]
    assert own_words("**Mia**: m8.0 tea") == ["m8.0 tea"]
    assert own_words("**Mia**:\n> [↪ Ada](<https://discord.com/channels/1/2/3>): d7.0\nm8.0 tea") == ["m8.0 tea"]


def test_messages_that_share_a_copy_are_told_apart() -> None:
    assert own_words("**Ben:** me too\n\n**Ada:** d3.1 rain") == ["me too", "d3.1 rain"]
    assert own_words("d2.0 tea\n\n> ↪ Ada: d2.0 tea\nd3.1 rain") == ["d2.0 tea", "d3.1 rain"]
