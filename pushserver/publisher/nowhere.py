"""A way to nowhere: every command is accepted, and answered as a server would where nobody is online."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pushserver.publisher.commands import Command
from pushserver.publisher.errors import PublishError


class NullTransport:
    """Accepts everything and keeps nothing: ``Publisher("null://")``."""

    answers = True
    where = "null://"

    def call(self, command: Command) -> Any:
        params = command.params
        message_id = params.get("messageId")
        match command.method:
            case "publish":
                return {"messageId": message_id}
            case "broadcast":
                return {"results": [{"result": {"messageId": message_id}} for _ in params["channels"]]}
            case "notify":
                users = params.get("userIds") or [params.get("userId")]
                return {"results": [{"userId": user, "messageId": message_id} for user in users]}
            case "disconnect" | "revoke":
                return {"closed": 0, **{name: params[name] for name in ("issuedBefore",) if name in params}}
            case "inbox" | "history":
                return {"messages": [], "offset": 0, "epoch": ""}
            case "presence":
                return {"users": [], "total": 0}
            case "inbox.read" | "inbox.delete":
                return {}
            case "ticket":
                return {"ticket": "null", "expiresAt": 0}
        return {"taskId": params.get("taskId")}

    def batch(self, commands: Sequence[Command]) -> list[Any | PublishError]:
        return [self.call(command) for command in commands]

    def publish_live(self, channel: str, data: Any, type: str | None) -> None:
        pass

    def task(self, task_id: str) -> dict[str, Any] | None:
        return None

    def reset(self) -> None:
        pass

    def close(self) -> None:
        pass
