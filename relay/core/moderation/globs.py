"""Globs of account names, many at once: `*` stands for any characters, `?` for one, all else for itself.

Written for globs that somebody else chose, maybe to cost us time: all of them together are matched in one pass over the
text, with a few operations on one large number for each character, whatever they look like. (Glob by glob, ten thousand
times `*a*a*a*b` would take minutes; the standard library's `fnmatch` also reads `[` as special, and backtracks.)
"""

from collections import defaultdict
from collections.abc import Iterable

LONGEST_GLOB = 512
"""Characters. Names are at most 255 bytes long; a longer glob says nothing more."""

MOST_CHARACTERS = 300_000
"""Of all globs with wildcards together: what lies beyond is not used. For the longest name a pass takes 10 ms then."""


class GlobSet:
    """Some globs. Immutable; a name is matched against all of them together.

    Each glob is a chain of states, one bit each: how many of its characters have been matched. `*` lets a state last.
    """

    __slots__ = ("_any", "_ends", "_exact", "_final", "_globs", "_lasting", "_masks", "_start", "unused")

    def __init__(self, globs: Iterable[str]) -> None:
        self._globs = tuple(globs)
        # The places of globs without wildcards in the order that was given.
        self._exact: dict[str, list[int]] = defaultdict(list)
        # The place of a glob by the bit of its last state.
        self._ends: dict[int, int] = {}
        self.unused: tuple[int, ...] = ()
        self._compile()

    def matching(self, name: str) -> tuple[int, ...]:
        """The places of the globs that match all of `name`, in the order that was given."""
        found = list(self._exact.get(name, ()))
        reached = self._reached(name)
        while reached:
            bit = reached.bit_length() - 1
            found.append(self._ends[bit])
            reached ^= 1 << bit
        return tuple(sorted(found))

    def _reached(self, name: str) -> int:
        """The last states of the globs that match."""
        states, lasting, masks = self._start, self._lasting, self._masks
        for character in name:
            if not states:
                return 0
            states = ((states & masks.get(character, self._any)) << 1) | (states & lasting)
        return states & self._final

    def _compile(self) -> None:
        unused: list[int] = []
        start: list[int] = []
        final: list[int] = []
        lasting: list[int] = []
        single: list[int] = []
        steps: dict[str, list[int]] = defaultdict(list)
        bit = 0
        for place, glob in enumerate(self._globs):
            if not glob or len(glob) > LONGEST_GLOB:
                unused.append(place)
                continue
            if "*" not in glob and "?" not in glob:
                self._exact[glob].append(place)
                continue
            # Each further letter costs a number of its own, and names with others are a thing of the past.
            if not glob.isascii() or bit + len(glob) > MOST_CHARACTERS:
                unused.append(place)
                continue
            start.append(bit)
            for character in glob:
                if character == "*":
                    lasting.append(bit)
                else:
                    (single if character == "?" else steps[character]).append(bit)
                    bit += 1
            final.append(bit)
            self._ends[bit] = place
            bit += 1
        self._start, self._final, self._lasting = (_number(bits, bit) for bits in (start, final, lasting))
        self._any = _number(single, bit)
        self._masks = {character: _number(bits, bit) | self._any for character, bits in steps.items()}
        self.unused = tuple(unused)


def _number(bits: Iterable[int], size: int) -> int:
    """A number with these bits set. Made in one go: to add bit by bit would copy it each time."""
    held = bytearray(size // 8 + 1)
    for bit in bits:
        held[bit >> 3] |= 1 << (bit & 7)
    return int.from_bytes(held, "little")
