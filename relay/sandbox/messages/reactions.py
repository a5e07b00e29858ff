"""Reactions and votes, and their events."""

import re

from relay.sandbox import errors
from relay.sandbox.messages.events import where
from relay.sandbox.messages.messages import Messages
from relay.sandbox.messages.render import reaction_emoji
from relay.sandbox.world import render
from relay.sandbox.world.dispatch import Intent
from relay.sandbox.world.models import Channel, Json, Message, Reaction, User
from relay.sandbox.world.permissions import Permission

MAX_KINDS = 20
_CUSTOM = re.compile(r"(?:a:)?(\w{1,32}):(\d{1,20})")
_INTENT = Intent.GUILD_MESSAGE_REACTIONS
_POLLS = Intent.GUILD_MESSAGE_POLLS


class Reactions:
    """Puts emoji under messages and takes them away."""

    def __init__(self, messages: Messages) -> None:
        self.state = messages.state
        self.messages = messages

    def find(self, message: Message, emoji: str) -> Reaction | None:
        """The reaction with an emoji: `name:id` for a custom one."""
        wanted = self._parse(emoji)
        for reaction in message.reactions:
            if (reaction.emoji_id, reaction.name if reaction.emoji_id is None else "") == (
                wanted.emoji_id,
                wanted.name if wanted.emoji_id is None else "",
            ):
                return reaction
        return None

    def add(self, channel: Channel, message: Message, user: User, emoji: str) -> None:
        """React. Twice does nothing."""
        granted = self.state.permissions(user.id, channel)
        if not granted & Permission.READ_MESSAGE_HISTORY:
            raise errors.missing_access()
        reaction = self.find(message, emoji)
        if reaction is None:
            if not granted & Permission.ADD_REACTIONS:
                raise errors.missing_permissions()
            if len(message.reactions) >= MAX_KINDS:
                raise errors.ApiError(400, 30010, f"Maximum number of reactions reached ({MAX_KINDS})")
            reaction = self._parse(emoji)
            message.reactions.append(reaction)
        if user.id in reaction.users:
            return
        reaction.users.append(user.id)
        body = self._body(channel, message, reaction, user.id) | {"message_author_id": str(message.author_id)}
        members = self.state.guilds[channel.guild_id].members
        if user.id in members:
            body["member"] = render.member(members[user.id])
        self._tell("MESSAGE_REACTION_ADD", channel, body)

    def remove(self, channel: Channel, message: Message, user_id: int, emoji: str) -> None:
        """Take one reaction away; none there does nothing."""
        reaction = self.find(message, emoji)
        if reaction is None or user_id not in reaction.users:
            return
        reaction.users.remove(user_id)
        if not reaction.users:
            message.reactions.remove(reaction)
        self._tell("MESSAGE_REACTION_REMOVE", channel, self._body(channel, message, reaction, user_id))

    def clear(self, channel: Channel, message: Message) -> None:
        """Take all reactions away."""
        message.reactions.clear()
        self._tell("MESSAGE_REACTION_REMOVE_ALL", channel, where(channel, message))

    def vote(self, channel: Channel, message: Message, user: User, answer_id: int) -> None:
        """Vote in a poll."""
        if message.poll is None or answer_id not in {item["answer_id"] for item in message.poll["answers"]}:
            raise errors.ApiError(400, 520001, "Poll voting is blocked")
        if message.poll_over:
            raise errors.ApiError(400, 520001, "Poll expired")
        if not message.poll["allow_multiselect"]:
            for users in message.poll_votes.values():
                if user.id in users:
                    users.remove(user.id)
        voters = message.poll_votes.setdefault(answer_id, [])
        if user.id not in voters:
            voters.append(user.id)
        body = where(channel, message) | {"user_id": str(user.id), "answer_id": answer_id}
        self.state.emit_fixed("MESSAGE_POLL_VOTE_ADD", _POLLS, channel.guild_id, body, channel)

    def end_poll(self, channel: Channel, message: Message) -> None:
        """End a poll: its result is final, and Discord announces it.

        https://discord.com/developers/docs/resources/message#embed-fields-by-embed-type-poll-result-embed-fields
        """
        poll = message.poll
        if poll is None or message.poll_over:
            raise errors.ApiError(400, 520006, "Cannot expire this poll")
        message.poll_over = True
        poll["expiry"] = render.iso(self.state.clock())
        self.messages.emit("MESSAGE_UPDATE", channel, message)
        counts = {item["answer_id"]: len(message.poll_votes.get(item["answer_id"], [])) for item in poll["answers"]}
        fields = {"poll_question_text": poll["question"]["text"], "total_votes": str(sum(counts.values()))}
        best = max(counts.values(), default=0)
        winners = [item for item in poll["answers"] if counts[item["answer_id"]] == best]
        fields["victor_answer_votes"] = str(best)
        if best and len(winners) == 1:
            fields["victor_answer_id"] = str(winners[0]["answer_id"])
            fields["victor_answer_text"] = winners[0]["poll_media"].get("text") or ""
        embed = {
            "type": "poll_result",
            "fields": [{"name": name, "value": value, "inline": False} for name, value in fields.items()],
        }
        author = self.state.user(message.author_id)
        reference = {"type": 0} | where(channel, message)
        self.messages.system(channel, author, 46, embeds=[embed], reference=reference)

    def _parse(self, emoji: str) -> Reaction:
        custom = _CUSTOM.fullmatch(emoji)
        if custom is not None:
            known = self.state.emojis.get(int(custom[2]))
            if known is None:
                raise errors.unknown("Emoji")
            return Reaction(known.name, known.id, known.animated)
        if not emoji or emoji.isascii():
            raise errors.unknown("Emoji")
        return Reaction(emoji, None)

    def _body(self, channel: Channel, message: Message, reaction: Reaction, user_id: int) -> Json:
        return where(channel, message) | {
            "user_id": str(user_id),
            "emoji": {"animated": reaction.animated} | reaction_emoji(reaction),
            "burst": False,
            "type": 0,
        }

    def _tell(self, event: str, channel: Channel, body: Json) -> None:
        self.state.emit_fixed(event, _INTENT, channel.guild_id, body, channel)
