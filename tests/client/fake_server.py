"""A small push server for the client's tests: the protocol as it is promised, in memory, in a thread of its own.

Tokens are ``user-<id>``; ``bad`` is invalid and ``expired…`` has expired. Channels ``news…`` keep history, ``locked…``
may not be read, ``sealed…`` with the token of `channel_tokens` alone, others are live only.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from ssl import SSLContext
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tools.ports import free_port


class Peer:
    """One connection as the fake server knows it."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.user: str | None = None
        self.channels: set[str] = set()


class FakeServer:
    def __init__(self, tls: SSLContext | None = None) -> None:
        self.tls = tls
        self.epoch = "e1"
        self.histories: dict[str, list[dict[str, Any]]] = {}
        self.offsets: dict[str, int] = {}
        self.acked: dict[str, int] = {}
        self.channel_tokens: dict[str, str] = {}
        self.tasks: dict[str, dict[str, Any]] = {}
        #: the bytes of outputs, by channel, and those that are closed
        self.outputs: dict[str, bytes] = {}
        self.closed_outputs: set[str] = set()
        self.published: dict[tuple[str, str], dict[str, Any]] = {}
        #: every message received, with the number of its connection
        self.log: list[tuple[int, dict[str, Any]]] = []
        self.connections = 0
        self.heartbeat = {"interval": 25_000, "timeout": 10_000}
        self.token_life: int | None = None
        #: close codes to answer the next auths with
        self.refuse_with: list[int] = []
        #: HTTP statuses to answer the next upgrades with
        self.refuse_upgrade: list[int] = []
        self.deaf = False
        self.drop_replies = 0
        self.peers: dict[int, Peer] = {}
        #: its own also while it is away
        self.port = free_port()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake push server", daemon=True)
        self._thread.start()
        self._server: Server | None = None

    # From the tests' thread

    @property
    def url(self) -> str:
        return f"wss://localhost:{self.port}/ws" if self.tls else f"ws://127.0.0.1:{self.port}/ws"

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def start(self) -> None:
        self.run(self._start())

    def stop(self) -> None:
        """Die: every socket is cut without a word."""
        self.run(self._stop())

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    def push(self, channel: str, data: Any, **fields: Any) -> dict[str, Any]:
        return self.run(self._push(channel, data, **fields))

    def notify(self, user: str, data: Any, **fields: Any) -> dict[str, Any]:
        return self.push(f"user:{user}", data, type=fields.pop("type", "user_notification"), **fields)

    def task(self, task_id: str, user: str, **changes: Any) -> dict[str, Any]:
        return self.run(self._task(task_id, user, changes))

    def write(self, output: str, text: str, *, closes: bool = False) -> None:
        """Append text to the output of a task, by its channel."""
        self.run(self._write(output, text, closes))

    def send(self, message: dict[str, Any]) -> None:
        """The same message to every connection, as it is."""

        async def send() -> None:
            for peer in list(self.peers.values()):
                await self._send(peer, message)

        self.run(send())

    def close_all(self, code: int, reason: str = "") -> None:
        async def close() -> None:
            for peer in list(self.peers.values()):
                await peer.socket.close(code, reason)

        self.run(close())

    def cut(self) -> None:
        """Cut every socket without a word; the server stays."""

        async def cut() -> None:
            for peer in list(self.peers.values()):
                peer.socket.transport.abort()

        self.run(cut())

    def received(self, type: str) -> list[dict[str, Any]]:
        return [message.get("data") or {} for _, message in list(self.log) if message["type"] == type]

    def until(self, condition: Callable[[], Any], timeout: float = 30) -> Any:
        deadline = time.monotonic() + timeout
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > deadline:
                raise AssertionError("it did not come to that in time")
            time.sleep(0.005)

    # In the server's thread

    async def _start(self) -> None:
        self._server = await serve(
            self._serve,
            "127.0.0.1",
            self.port,
            process_request=self._upgrade,
            subprotocols=["pushserver.v1.json"],  # type: ignore[list-item]
            ping_interval=None,
            ssl=self.tls,
        )

    async def _stop(self) -> None:
        if self._server is None:
            return
        for peer in list(self.peers.values()):
            peer.socket.transport.abort()
        self._server.close()
        await self._server.wait_closed()
        self._server = None

    def _upgrade(self, connection: ServerConnection, request: Any) -> Any:
        if self.refuse_upgrade:
            return connection.respond(self.refuse_upgrade.pop(0), "refused\n")
        return None

    async def _serve(self, socket: ServerConnection) -> None:
        self.connections += 1
        number = self.connections
        peer = self.peers[number] = Peer(socket)
        try:
            async for text in socket:
                message = json.loads(text)
                self.log.append((number, message))
                if not self.deaf:
                    await self._handle(peer, message)
        except ConnectionClosed:
            pass
        finally:
            del self.peers[number]

    async def _send(self, peer: Peer, message: dict[str, Any]) -> None:
        try:
            await peer.socket.send(json.dumps(message))
        except ConnectionClosed:
            pass

    async def _handle(self, peer: Peer, message: dict[str, Any]) -> None:
        kind, data = message["type"], message.get("data") or {}
        if kind == "ping":
            ident = {"id": message["id"]} if "id" in message else {}
            await self._send(peer, {"type": "pong", "data": {**data, "timestamp": _now()}, **ident})
            return
        if kind == "auth":
            await self._auth(peer, message, data)
            return
        answer = getattr(self, f"_on_{kind}")(peer, data)
        if asyncio.iscoroutine(answer):
            answer = await answer
        if self.drop_replies:
            self.drop_replies -= 1
            peer.socket.transport.abort()
            return
        type, body = answer
        reply = {"type": type, "data": body}
        if "id" in message:
            reply["id"] = message["id"]
        await self._send(peer, reply)

    async def _auth(self, peer: Peer, message: dict[str, Any], data: dict[str, Any]) -> None:
        token = data["token"]
        ident = {"id": message["id"]} if "id" in message else {}
        refusal = None
        if self.refuse_with:
            await peer.socket.close(self.refuse_with.pop(0), "refused")
            return
        if token.startswith("expired"):
            refusal = ("TOKEN_EXPIRED", 3005)
        elif not token.startswith("user-"):
            refusal = ("INVALID_TOKEN", 3500)
        if refusal:
            body = {"code": refusal[0], "message": "no"}
            if peer.user is None:
                await self._send(peer, {"type": "auth_failed", "data": body, **ident})
                await peer.socket.close(refusal[1], refusal[0])
            else:
                await self._send(peer, {"type": "error", "data": body, **ident})
            return
        refresh = peer.user is not None
        user = token.split("-")[1]
        if peer.user not in (None, user):
            body = {"code": "PERMISSION_DENIED", "message": "this connection belongs to another user"}
            await self._send(peer, {"type": "error", "data": body, **ident})
            return
        peer.user = user
        channel = f"user:{user}"
        peer.channels |= {channel, "system"}
        history = self.histories.get(channel, [])
        since = (data.get("positions") or {}).get(channel)
        acked = self.acked.get(user, 0)
        start = since["offset"] if since and since["epoch"] == self.epoch else acked
        pending = [push for push in history if push["offset"] > start]
        body = {
            "connectionId": "c1",
            "userId": user,
            "permissions": [],
            "expiresAt": _now() + (self.token_life if self.token_life is not None else 3_600_000),
            "channels": sorted(peer.channels),
            "results": {},
            "heartbeat": self.heartbeat,
            "node": "fake",
            "inbox": {
                "offset": self.offsets.get(channel, 0),
                "epoch": self.epoch,
                "acked": acked,
                "pending": len(pending),
                "unread": self._unread(peer),
            },
            "tasks": [
                task
                for task in self.tasks.values()
                if task["userId"] == user and task["status"] not in ("completed", "failed", "cancelled")
            ],
        }
        await self._send(peer, {"type": "auth_success", "data": body, **ident})
        if not refresh:
            for push in pending:
                await self._send(peer, push)

    def _on_subscribe(self, peer: Peer, data: dict[str, Any]) -> Any:
        results: dict[str, Any] = {}
        rejected: dict[str, Any] = {}
        for item in data["channels"]:
            name, since = (item, None) if isinstance(item, str) else (item["channel"], item.get("since"))
            if name.startswith("locked"):
                rejected[name] = {"code": "PERMISSION_DENIED", "message": "not yours"}
            elif name.startswith("sealed") and (isinstance(item, str) or "token" not in item):
                rejected[name] = {"code": "PERMISSION_DENIED", "message": "not without a token"}
            elif name.startswith("sealed") and item["token"] != self.channel_tokens.get(name):
                rejected[name] = {"code": "INVALID_TOKEN", "message": "another channel's"}
            elif name.startswith("task:"):
                state = self.tasks.get(name[5:])
                if state is None:
                    rejected[name] = {"code": "NOT_FOUND", "message": "no such task"}
                else:
                    peer.channels.add(name)
                    results[name] = {"task": state}
            elif name.startswith("output:"):
                peer.channels.add(name)
                results[name] = {"output": self._output(name, since)}
            else:
                peer.channels.add(name)
                results[name] = self._resume(name, since) if self._keeps(name) else {}
        return "subscription_success", {"channels": sorted(peer.channels), "results": results, "rejected": rejected}

    def _resume(self, name: str, since: dict[str, Any] | None) -> dict[str, Any]:
        newest = self.offsets.get(name, 0)
        result: dict[str, Any] = {"recovered": False, "offset": newest, "epoch": self.epoch, "messages": []}
        kept = self.histories.get(name, [])
        oldest = kept[0]["offset"] if kept else newest + 1
        if since and since["epoch"] == self.epoch and oldest - 1 <= since["offset"] <= newest:
            result["recovered"] = True
            result["messages"] = [push for push in kept if push["offset"] > since["offset"]]
        return result

    def _output(self, name: str, since: dict[str, Any] | None) -> dict[str, Any]:
        kept = self.outputs.get(name, b"")
        told: dict[str, Any] = {"kind": "text" if kept else None, "start": 0, "closed": name in self.closed_outputs}
        start = 0
        if since and since["epoch"] == self.epoch:
            start = since["offset"]
        elif since:
            told["reset"] = True
        return {"text": kept[start:].decode(), "offset": len(kept), "epoch": self.epoch, **told}

    async def _write(self, name: str, text: str, closes: bool) -> None:
        self.outputs[name] = self.outputs.get(name, b"") + text.encode()
        data: dict[str, Any] = {"text": text} if text else {}
        if closes:
            self.closed_outputs.add(name)
            data["closed"] = True
        place = {"offset": len(self.outputs[name]), "epoch": self.epoch}
        for peer in list(self.peers.values()):
            if name in peer.channels:
                await self._send(peer, {"type": "output", "channel": name, "data": data, "timestamp": _now(), **place})

    def _on_unsubscribe(self, peer: Peer, data: dict[str, Any]) -> Any:
        peer.channels -= set(data["channels"])
        return "unsubscription_success", {"channels": sorted(peer.channels), "rejected": {}}

    async def _on_publish(self, peer: Peer, data: dict[str, Any]) -> Any:
        if data["channel"].startswith("locked"):
            return "error", {"code": "PERMISSION_DENIED", "message": "not yours", "timestamp": _now()}
        key = (data["channel"], data["messageId"])
        if key in self.published:
            return "published", {**self.published[key], "duplicate": True}
        push = await self._push(
            data["channel"],
            data["data"],
            type=data.get("messageType", "message"),
            sender=peer.user,
            messageId=data["messageId"],
        )
        result = self.published[key] = {k: push[k] for k in ("messageId", "offset", "epoch") if k in push}
        return "published", result

    async def _on_chat_message(self, peer: Peer, data: dict[str, Any]) -> Any:
        target = data.get("targetId")
        channel = f"user:{target}" if target else data.get("channel", "chat:lobby")
        body = {"from": peer.user, "content": data["content"], "messageType": data.get("messageType", "text")}
        push = await self._push(channel, body, type="chat_message", sender=peer.user, messageId=data["messageId"])
        return "message_sent", {"messageId": push["messageId"], "delivered": 1, "queued": bool(target)}

    def _on_ack(self, peer: Peer, data: dict[str, Any]) -> Any:
        assert peer.user is not None
        if data["epoch"] != self.epoch:
            return "error", {"code": "CONFLICT", "message": "another epoch", "timestamp": _now()}
        self.acked[peer.user] = max(self.acked.get(peer.user, 0), data["offset"])
        return "ack_success", {"offset": self.acked[peer.user]}

    def _on_history(self, peer: Peer, data: dict[str, Any]) -> Any:
        name = data["channel"]
        kept = self.histories.get(name, [])[: data.get("limit", 100)]
        return "history", {"messages": kept, "offset": self.offsets.get(name, 0), "epoch": self.epoch}

    def _on_presence(self, peer: Peer, data: dict[str, Any]) -> Any:
        users = sorted(
            {other.user for other in self.peers.values() if other.user and data["channel"] in other.channels}
        )
        return "presence", {"users": [{"userId": user, "connections": 1} for user in users], "total": len(users)}

    def _on_inbox(self, peer: Peer, data: dict[str, Any]) -> Any:
        kept = list(reversed(self.histories.get(f"user:{peer.user}", [])))
        if "before" in data:
            kept = [push for push in kept if push["offset"] < data["before"]["offset"]]
        if data.get("unread"):
            kept = [push for push in kept if push["readAt"] is None]
        limit = data.get("limit", 50)
        page = {"messages": kept[:limit], "more": len(kept) > limit, "unread": self._unread(peer)}
        return "inbox", {**page, "offset": self.offsets.get(f"user:{peer.user}", 0), "epoch": self.epoch}

    def _unread(self, peer: Peer) -> dict[str, int]:
        counts = {"notification": 0, "chat": 0, "task": 0}
        for push in self.histories.get(f"user:{peer.user}", []):
            kind = {"chat": "chat", "task": "task"}.get(push["type"].partition("_")[0], "notification")
            counts[kind] += push["readAt"] is None
        return counts

    def _chosen(self, peer: Peer, data: dict[str, Any]) -> list[dict[str, Any]]:
        kept = self.histories.get(f"user:{peer.user}", [])
        return [p for p in kept if p["offset"] in data.get("offsets", ()) or p["offset"] <= data.get("upTo", 0)]

    async def _on_inbox_read(self, peer: Peer, data: dict[str, Any]) -> Any:
        if data["epoch"] != self.epoch:
            return "error", {"code": "CONFLICT", "message": "another epoch", "timestamp": _now()}
        read_at = _now() if data.get("read", True) else None
        for push in self._chosen(peer, data):
            push["readAt"] = read_at
        await self._notify_changed(peer, data, {"readAt": read_at})
        return "inbox_read_success", {"unread": self._unread(peer)}

    async def _on_inbox_delete(self, peer: Peer, data: dict[str, Any]) -> Any:
        gone = self._chosen(peer, data)
        for push in gone:
            self.histories[f"user:{peer.user}"].remove(push)
        await self._notify_changed(peer, data, {"deleted": True})
        return "inbox_delete_success", {"deleted": len(gone), "unread": self._unread(peer)}

    async def _notify_changed(self, peer: Peer, data: dict[str, Any], change: dict[str, Any]) -> None:
        chosen = {name: data[name] for name in ("offsets", "upTo", "epoch") if name in data}
        told = {**chosen, **change, "unread": self._unread(peer)}
        for other in list(self.peers.values()):
            if other is not peer and other.user == peer.user:
                await self._send(other, {"type": "inbox_changed", "channel": f"user:{peer.user}", "data": told})

    def _on_task_get(self, peer: Peer, data: dict[str, Any]) -> Any:
        state = self.tasks.get(data["taskId"])
        if state is None:
            return "error", {"code": "NOT_FOUND", "message": "no such task", "timestamp": _now()}
        return "task", state

    def _on_task_cancel(self, peer: Peer, data: dict[str, Any]) -> Any:
        state = self.tasks[data["taskId"]]
        state["cancelRequested"] = True
        state["version"] += 1
        return "task", state

    def _keeps(self, channel: str) -> bool:
        return channel.startswith(("news", "demo:", "user:", "system"))

    async def _push(
        self, channel: str, data: Any, *, type: str = "message", sender: str | None = None, **fields: Any
    ) -> dict[str, Any]:
        push: dict[str, Any] = {"type": type, "channel": channel, "data": data, "timestamp": _now()}
        push["messageId"] = fields.get("messageId", f"m{time.monotonic_ns()}")
        if sender:
            push["from"] = sender
        if self._keeps(channel):
            self.offsets[channel] = push["offset"] = self.offsets.get(channel, 0) + 1
            push["epoch"] = self.epoch
            if channel.startswith("user:"):
                push["readAt"] = None
            self.histories.setdefault(channel, []).append(push)
        for peer in list(self.peers.values()):
            if channel in peer.channels:
                await self._send(peer, push)
        return push

    async def _task(self, task_id: str, user: str, changes: dict[str, Any]) -> dict[str, Any]:
        old = self.tasks.get(task_id)
        state = {
            "taskId": task_id,
            "userId": user,
            "status": "pending",
            "percentage": 0,
            "version": 0,
            "createdAt": _now(),
        }
        state |= {**(old or {}), **changes}
        state["version"] += 1
        state["updatedAt"] = _now()
        self.tasks[task_id] = state
        type = {"pending": "task_created", "running": "task_progress"}.get(state["status"], f"task_{state['status']}")
        if state["status"] in ("completed", "failed", "cancelled"):
            return await self._push(f"user:{user}", state, type=type)
        for peer in list(self.peers.values()):
            if peer.user == user or f"task:{task_id}" in peer.channels:
                event = {"type": type, "channel": f"task:{task_id}", "data": state, "timestamp": _now()}
                await self._send(peer, {**event, "messageId": f"{task_id}-{state['version']}"})
        return state


def _now() -> int:
    return int(time.time() * 1000)
