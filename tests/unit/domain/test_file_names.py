"""What a file may be called."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.domain.file_names import file_name


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("cat.png", "image/png", "cat.png"),
        ("wave", "image/png", "wave.png"),
        ("../../etc/passwd", "text/plain", "_.._etc_passwd.txt"),
        ("a\u202egnp.exe", "application/octet-stream", "agnp.exe"),
        ("  two   words .txt", "text/plain", "two words.txt"),
        ("", "image/jpeg", "file.jpg"),
        ("...", "application/octet-stream", "file"),
        (".profile", "text/plain", "profile.txt"),
        ("日本語.pdf", "application/pdf", "日本語.pdf"),
        ("x" * 300 + ".png", "image/png", "x" * 116 + ".png"),
    ],
)
def test_safe_names(name: str, kind: str, expected: str) -> None:
    assert file_name(name, kind) == expected


@given(st.text(max_size=400), st.sampled_from(["image/png", "application/octet-stream", "text/plain"]))
def test_any_name_is_one_visible_segment(name: str, kind: str) -> None:
    safe = file_name(name, kind)
    assert 0 < len(safe) <= 120
    assert not set('/\\:*?"<>|') & set(safe)
    assert safe not in {".", ".."}
    assert not any(unicodedata.category(char) in {"Cc", "Cf", "Cs"} for char in safe)
    assert file_name(safe, kind) == safe
