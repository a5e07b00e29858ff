"""What is shown of the URL of a store never has its password in it."""

import pytest

from relay.config.store_url import passwords_of, problem_with_database, without_password

WHOLE = 'write "postgresql://user:password@host/relay"'


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


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://relay:se%2Fcret@host:5432,other:5433/relay", None),
        ("postgresql://relay@/relay?host=/run/postgresql", None),
        # Python told the begin of the password, in a traceback.
        ("postgresql://relay:se/cret@host/relay", ("has a / in its password", "write %2F for it")),
        ("postgresql://relay:se?cret@host/relay", ("has a ? in its password", "write %3F for it")),
        ("postgresql://relay:se#cret@host/relay", ("has a # in it", "write %23 for it, also in a password")),
        ("postgresql://host:99999/relay", ("has a port that is no number up to 65535", WHOLE)),
        ("postgresql://host:x/relay", ("has a port that is no number up to 65535", WHOLE)),
        ("postgresql://[::1/relay", ("cannot be read", WHOLE)),
        ("postgresql://host/", ("names no database", WHOLE)),
    ],
)
def test_an_address_that_is_none_is_told_with_what_to_write(url: str, told: tuple[str, str] | None) -> None:
    assert problem_with_database(url) == told
