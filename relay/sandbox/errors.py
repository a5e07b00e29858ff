"""Discord's errors: https://discord.com/developers/docs/topics/opcodes-and-status-codes#json."""

from relay.sandbox.world.models import Json


class ApiError(Exception):
    """An answer that is not 2xx. `errors` is the nested report of an invalid form body."""

    def __init__(self, status: int, code: int, message: str, errors: Json | None = None) -> None:
        super().__init__(f"{status} {code} {message}")
        self.status = status
        self.code = code
        self.message = message
        self.errors = errors

    def body(self) -> Json:
        """The JSON body."""
        body: Json = {"message": self.message, "code": self.code}
        if self.errors is not None:
            body["errors"] = self.errors
        return body


def unauthorised() -> ApiError:
    """401: no token, or a wrong one."""
    return ApiError(401, 0, "401: Unauthorized")


def no_route() -> ApiError:
    """404: there is nothing at this path."""
    return ApiError(404, 0, "404: Not Found")


def unknown(what: str) -> ApiError:
    """404: `what` (one of the keys below) does not exist."""
    return ApiError(404, _UNKNOWN[what], f"Unknown {what}")


_UNKNOWN = {
    "Application": 10002,
    "Channel": 10003,
    "Guild": 10004,
    "Member": 10007,
    "Message": 10008,
    "Role": 10011,
    "User": 10013,
    "Emoji": 10014,
    "Webhook": 10015,
    "Ban": 10026,
    "Sticker": 10060,
    "interaction": 10062,
    "application command": 10063,
}


def missing_access() -> ApiError:
    """403: the channel or guild cannot be seen."""
    return ApiError(403, 50001, "Missing Access")


def missing_permissions() -> ApiError:
    """403: it can be seen, but this may not be done."""
    return ApiError(403, 50013, "Missing Permissions")


def banned() -> ApiError:
    """403: who is banned cannot join."""
    return ApiError(403, 40007, "The user is banned from this guild.")


def not_the_author() -> ApiError:
    """403: only its author may edit a message."""
    return ApiError(403, 50005, "Cannot edit a message authored by another user")


def empty_message() -> ApiError:
    """400: nothing to post."""
    return ApiError(400, 50006, "Cannot send an empty message")


def wrong_channel_type() -> ApiError:
    """400: not in a channel of this type."""
    return ApiError(400, 50024, "Cannot execute action on this channel type")


def system_message() -> ApiError:
    """403: what Discord itself wrote cannot be edited."""
    return ApiError(403, 50021, "Cannot execute action on a system message")


def invalid_webhook_token() -> ApiError:
    """401: the webhook exists, its token is another one."""
    return ApiError(401, 50027, "Invalid Webhook Token")


def too_old_to_bulk_delete() -> ApiError:
    """400: bulk deletion takes only what is younger than two weeks."""
    return ApiError(400, 50034, "A message provided was too old to bulk delete")


def too_large() -> ApiError:
    """413: a file, or the whole request, is larger than the guild allows."""
    return ApiError(413, 40005, "Request entity too large")


def too_many_webhooks() -> ApiError:
    """400: fifteen a channel."""
    return ApiError(400, 30007, "Maximum number of webhooks reached (15)")


def too_many_emojis(most: int) -> ApiError:
    """400: the application, or the guild, has as many as it may."""
    return ApiError(400, 30008, f"Maximum number of emojis reached ({most})")


def foreign_application() -> ApiError:
    """403: the application of the path is another one."""
    return ApiError(403, 20012, "You are not authorized to perform this action on this application")


def thread_archived() -> ApiError:
    """400: nothing may be done in an archived thread but sending."""
    return ApiError(400, 50083, "Thread is archived")


def thread_locked() -> ApiError:
    """400: only moderators may write here."""
    return ApiError(400, 160005, "Thread is locked")


def forum_without_thread() -> ApiError:
    """400: a forum holds posts, no messages."""
    return ApiError(400, 220001, "Webhooks posted to forum channels must have a thread_name or thread_id")


def thread_exists() -> ApiError:
    """400: a message has at most one thread."""
    return ApiError(400, 160004, "A thread has already been created for this message")


def invalid_json() -> ApiError:
    """400: the body is no JSON."""
    return ApiError(400, 50109, "The request body contains invalid JSON.")


def invalid_form(errors: Json) -> ApiError:
    """400: `errors` as made by `relay.sandbox.messages.forms`."""
    return ApiError(400, 50035, "Invalid Form Body", errors)


def form_error(path: str, code: str, message: str) -> ApiError:
    """400 with one mistake; `path` is dotted: `attachments.0.filename`."""
    errors: Json = {}
    put_error(errors, path, code, message)
    return invalid_form(errors)


def no_such_attachment(attachment_id: int) -> ApiError:
    """400: the `attachments` array names a file that the request does not bring and the message does not have."""
    message = f"Attachment data for attachment id {attachment_id} not found"
    return form_error("attachments", "ATTACHMENT_NOT_FOUND", message)


def put_error(errors: Json, path: str, code: str, message: str) -> None:
    """Add one mistake to a nested report."""
    node = errors
    for key in filter(None, path.split(".")):
        node = node.setdefault(key, {})
    node.setdefault("_errors", []).append({"code": code, "message": message})
