"""Which avatars stand, which are wanted, and which gives way to another: what `avatars.py` decides by. No I/O."""

import asyncio
import hashlib
import re
import unicodedata
from collections import OrderedDict
from dataclasses import dataclass, field

from relay.core.ports import Clock
from relay.core.recent import keep
from relay.domain.content import Author
from relay.domain.ids import MediaRef, UserRef
from relay.domain.names import bracketed, visible

# One account may write for many people (another bridge does), but not push out everybody else's pictures.
MOST_OF_ACCOUNT = 100
# A message that was just posted needs its emoji until Discord has fetched it.
KEPT_SECONDS = 3600.0
MOST_RECORDS = 5_000
_MOST_WANTED, _MOST_WANTED_OF_ACCOUNT = 1_000, 30
# New pictures of one account: so many at once, then one in so many seconds. Discord may allow 50 an hour, and one
# account is not to use them up.
BURST, SECONDS_EACH = 10, 360.0
MOST_REMEMBERED = 2_000

_PREFIX, _ANIMATED = "relay_", "_a"
_DIGEST_LENGTH = 24
_NAME = re.compile(rf"{_PREFIX}[0-9a-f]{{{_DIGEST_LENGTH}}}(?:{_ANIMATED})?")
_SEVERAL = bracketed("")[0]
_HUES = 24


@dataclass(slots=True)
class Emoji:
    """A picture that stands."""

    name: str
    id: str
    # When it was used last, and when that was last written down, in seconds since 1970.
    used: float = 0.0
    saved: float = 0.0
    # The IDs of those who have it, as far as is known.
    people: set[str] = field(default_factory=set)

    @property
    def file(self) -> str:
        """Its name on the CDN. A moving one is asked for as WebP, too, as Discord recommends: as a GIF, a webhook's
        picture was left out (https://docs.discord.com/developers/reference#image-formatting).
        """
        return f"{self.id}.webp?animated=true" if self.name.endswith(_ANIMATED) else f"{self.id}.webp"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A picture that is to be made: of a picture, or of letters."""

    user: UserRef
    # Tells what it is made of.
    source: str
    picture: MediaRef | None = None
    letters: tuple[str, ...] = ()
    hue: int = 0
    # How often it has failed for no reason of its own.
    failures: int = 0


@dataclass(slots=True)
class Shelf:
    """The pictures that stand, by their names, by what they were made of, and by who has them. Pure."""

    by_name: dict[str, Emoji] = field(default_factory=dict)
    # The name of the emoji that was made of a source.
    by_source: dict[str, str] = field(default_factory=dict)
    # Who has which: (user ID, source) -> name. The last used at the end.
    shown: OrderedDict[tuple[str, str], str] = field(default_factory=OrderedDict)
    # The last picture of a person, which serves until a new one stands.
    last: dict[str, str] = field(default_factory=dict)

    def show(self, user: str, source: str, name: str) -> None:
        """The emoji `name` was made of `source`, and `user` has it."""
        self.shown[user, source] = name
        self.shown.move_to_end((user, source))
        self.by_source[source] = name
        self.last[user] = name
        self.by_name[name].people.add(user)
        while len(self.shown) > MOST_RECORDS:
            (other, of), shown = self.shown.popitem(last=False)
            self._forget_source(of)
            self.last.pop(other, None)
            if shown in self.by_name:
                self.by_name[shown].people.discard(other)

    def remove(self, name: str) -> None:
        """The emoji does not stand any more."""
        emoji = self.by_name.pop(name, None)
        if emoji is None:
            return
        for key in [key for key, shown in self.shown.items() if shown == name]:
            del self.shown[key]
            self._forget_source(key[1])
        self.by_source = {source: shown for source, shown in self.by_source.items() if shown != name}
        self.last = {user: shown for user, shown in self.last.items() if shown != name}

    def forget(self, user: str) -> list[Emoji]:
        """Forget a person. Returns, and forgets, the emoji that nobody else has."""
        names = {name for (of, _), name in self.shown.items() if of == user}
        for key in [key for key in self.shown if key[0] == user]:
            del self.shown[key]
        self.last.pop(user, None)
        found = [self.by_name[name] for name in names if name in self.by_name]
        for emoji in found:
            emoji.people.discard(user)
        alone = [emoji for emoji in found if not emoji.people]
        for emoji in alone:
            self.remove(emoji.name)
        return alone

    def replaceable(self, user: str, now: float) -> Emoji | None:
        """What gives way to a new picture of `user`: the longest unused one; of an account that has too many, its own.

        None where all were used just now.
        """
        own = [emoji for emoji in self.by_name.values() if emoji.people == {user}]
        among = own if len(own) >= MOST_OF_ACCOUNT else self.by_name.values()
        oldest = min(among, key=lambda emoji: emoji.used, default=None)
        return oldest if oldest is not None and now - oldest.used >= KEPT_SECONDS else None

    def is_crowded_by(self, user: str) -> bool:
        """Whether an account has as many pictures as it may."""
        return sum(emoji.people == {user} for emoji in self.by_name.values()) >= MOST_OF_ACCOUNT

    def _forget_source(self, source: str) -> None:
        if all(of != source for _, of in self.shown):
            self.by_source.pop(source, None)


# The wishes of each account, by their source; the account whose turn is next comes first.
_Line = OrderedDict[str, OrderedDict[str, Wanted]]


@dataclass(slots=True)
class Wishes:
    """The pictures that are wanted, each once. Accounts take turns, and letters come last: Discord may allow few."""

    clock: Clock
    _pictures: _Line = field(init=False, default_factory=OrderedDict)
    _letters: _Line = field(init=False, default_factory=OrderedDict)
    _count: int = field(init=False, default=0)
    # What is being made, and for which account.
    _taken: dict[str, str] = field(init=False, default_factory=dict)
    # For each account, how many more it may have made at once, and when that was so.
    _allowed: OrderedDict[str, tuple[float, float]] = field(init=False, default_factory=OrderedDict)
    _some: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    def add(self, wanted: Wanted) -> None:
        """Want a picture, unless it is wanted already, or too much is."""
        account, line = wanted.user.id, self._line(wanted)
        own: OrderedDict[str, Wanted] = line.get(account, OrderedDict())
        if wanted.source in own or wanted.source in self._taken:
            return
        if self._count >= _MOST_WANTED or len(own) >= _MOST_WANTED_OF_ACCOUNT or not self._allow(account):
            return
        line.setdefault(account, own)[wanted.source] = wanted
        self._count += 1
        self._some.set()

    async def take(self) -> Wanted:
        """Wait for the next one. `done` says that it has been made."""
        while True:
            while not (line := self._pictures or self._letters):
                self._some.clear()
                await self._some.wait()
            account, own = line.popitem(last=False)
            _, wanted = own.popitem(last=False)
            self._count -= 1
            if own:
                line[account] = own
            if wanted.source not in self._taken:
                self._taken[wanted.source] = account
                return wanted

    def done(self, wanted: Wanted) -> None:
        """It has been made, given up, or added again."""
        self._taken.pop(wanted.source, None)

    def stands(self, wanted: Wanted) -> bool:
        """Whether what is being made is still wanted: its person may have been forgotten meanwhile."""
        return self._taken.get(wanted.source) == wanted.user.id

    def again(self, wanted: Wanted) -> None:
        """It could not be made now, and is the next of its account."""
        own = self._line(wanted).setdefault(wanted.user.id, OrderedDict())
        if wanted.source not in own:
            own[wanted.source] = wanted
            own.move_to_end(wanted.source, last=False)
            self._count += 1
        self._some.set()

    def forget(self, account: str) -> None:
        """Nothing of this account is wanted any more."""
        for line in (self._pictures, self._letters):
            self._count -= len(line.pop(account, {}))
        self._taken = {source: other for source, other in self._taken.items() if other != account}

    def __len__(self) -> int:
        return self._count

    def _line(self, wanted: Wanted) -> _Line:
        return self._letters if wanted.picture is None else self._pictures

    def _allow(self, account: str) -> bool:
        now = self.clock.monotonic()
        left, since = self._allowed.get(account, (float(BURST), now))
        left = min(float(BURST), left + (now - since) / SECONDS_EACH)
        allowed = left >= 1
        keep(self._allowed, account, (left - 1 if allowed else left, now), MOST_REMEMBERED)
        return allowed


# --- Names and letters --------------------------------------------------------------------------------------


def is_emoji_name(name: object) -> bool:
    """Whether an emoji of ours can be called that."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def shows_several(author: Author) -> bool:
    """Whether a message is of several people."""
    return author.name.startswith(_SEVERAL)


def emoji_name(picture: bytes) -> str:
    """What an emoji with this picture is called: the same name is the same picture."""
    digest = hashlib.sha256(picture).hexdigest()[:_DIGEST_LENGTH]
    return f"{_PREFIX}{digest}{_ANIMATED if picture.startswith(b'GIF8') else ''}"


def letters_of(author: Author) -> Wanted:
    """The picture of somebody who has none."""
    digest = hashlib.sha256(author.user.id.encode("utf-8", "replace")).digest()
    hue = digest[0] % _HUES * (360 // _HUES)
    letters = initials(author.name, author.handle)
    return Wanted(author.user, f"letters {hue} {' '.join(letters)}", letters=letters, hue=hue)


def initials(name: str, handle: str) -> tuple[str, ...]:
    """What to write for somebody, the best first: letters of the name, or of the handle if no font has those."""
    found: dict[str, None] = {}
    # What is in brackets says whose account it is.
    for text in (re.split(r"[(⟨\[]", visible(name), maxsplit=1)[0] or visible(name), visible(handle)):
        firsts = [first for word in text.split() if (first := next(filter(str.isalnum, word), ""))]
        letters = [_capital(first) for first in (firsts[:1] + firsts[-1:] if len(firsts) > 1 else firsts)]
        found |= dict.fromkeys(("".join(letters), *letters[:1]))
    return tuple(filter(None, found))


def _capital(letter: str) -> str:
    """A letter as a capital, without accents if it is then one that every font has."""
    capital = unicodedata.normalize("NFC", letter.upper())[:1]
    bare = unicodedata.normalize("NFKD", capital)[:1]
    return bare if bare.isascii() and bare.isalnum() else capital
