"""What is shown of the URL of a store never has its password in it."""

import pytest

from relay.config.store_url import passwords_of, without_password


@pytest.mark.parametrize(
    ("url", "shown", "hidden"),
    [
        ("sqlite:///relay.db", "sqlite:///relay.db", set()),
        ("postgresql://relay@host/relay", "postgresql://relay@host/relay", set()),
        ("postgresql://relay:secret@host/relay", "postgresql://relay@host/relay", {"secret"}),
        ("postgresql://relay:se%40cret@host/relay", "postgresql://relay@host/relay", {"se%40cret", "se@cret"}),
        # Not escaped, as people write it: the server's name is behind the last one.
        ("postgresql://relay:se@cret@host/relay", "postgresql://relay@host/relay", {"se@cret"}),
        ("postgresql://relay:a:b@host/relay?x=@", "postgresql://relay@host/relay?x=@", {"a:b"}),
        ("postgres://host/relay?password=secret&x=1", "postgres://host/relay?password=…&x=1", {"secret"}),
        ("postgres://host/relay?sslpassword=secret", "postgres://host/relay?sslpassword=…", {"secret"}),
    ],
)
def test_a_password_is_not_shown(url: str, shown: str, hidden: set[str]) -> None:
    assert without_password(url) == shown
    assert set(passwords_of(url)) == hidden
