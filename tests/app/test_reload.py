"""A reload of a server that runs: what counts from then on, and that nobody is lost."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.certificates import certificates
from tests.harness import Server, free_port, start, wait_until
from tests.rawsocket import RawSocket

OLD, NEW = "old-secret-" * 4, "new-secret-" * 4
KEY = "the-first-key-of-the-test"


def toml(value: Any) -> str:
    """Return a value as TOML has it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + "}"
    return f"[{', '.join(map(toml, value))}]" if isinstance(value, list) else json.dumps(value)


class Reloadable:
    """A server, and its file."""

    def __init__(self, place: Path, dev: bool = False, **sections: Any) -> None:
        self.sections: dict[str, dict[str, Any]] = {"auth": {"secret": OLD}, "api": {"keys": [KEY]}, **sections}
        environment = {"PUSHSERVER_AUTH__SECRET": "", "PUSHSERVER_API__KEYS": ""}
        self.server = start(place, config=self._text(), secret=OLD, api_key=KEY, env=environment, dev=dev)

    def _text(self) -> str:
        lines: list[str] = []
        for name, keys in self.sections.items():
            lines += [f"[{name}]", *(f"{key} = {toml(value)}" for key, value in keys.items())]
        return "\n".join(lines) + "\n"

    def write(self, text: str | None = None, **sections: dict[str, Any]) -> None:
        """Write the file anew, with these sections or this text."""
        self.sections |= sections
        (self.server.place / "pushserver.toml").write_text(self._text() if text is None else text)

    def reload(self, key: str = KEY) -> Any:
        """Reload by the API; return what it says."""
        said = self.server.api("POST", "/api/reload", key=key)
        assert said.status == 200, said.body
        return said.body


@pytest.fixture
def reloadable(tmp_path: Path) -> Any:
    made = Reloadable(tmp_path)
    yield made
    made.server.stop()


def token(secret: str, user: str = "42") -> str:
    now = int(time.time())
    return jwt.encode({"sub": user, "iat": now, "exp": now + 600}, secret, "HS256")


def sign_in(server: Server, secret: str) -> dict[str, Any]:
    with RawSocket(server.port) as client:
        client.upgrade()
        reply: dict[str, Any] = client.ask({"type": "auth", "id": 1, "data": {"token": token(secret)}})
        return reply


def test_a_secret_is_replaced_without_a_moment_in_which_tokens_fail(reloadable: Reloadable) -> None:
    server = reloadable.server
    with RawSocket(server.port) as client:
        client.upgrade()
        assert client.ask({"type": "auth", "id": 1, "data": {"token": token(OLD)}})["type"] == "auth_success"
        assert sign_in(server, NEW)["data"]["code"] == "INVALID_TOKEN"
        reloadable.write(auth={"secret": NEW, "secrets": [OLD]})
        assert reloadable.reload() == {"changed": ["auth.secret", "auth.secrets"], "restartNeeded": []}
        assert [sign_in(server, secret)["type"] for secret in (OLD, NEW)] == ["auth_success"] * 2
        reloadable.write(auth={"secret": NEW})
        assert reloadable.reload()["changed"] == ["auth.secrets"]
        assert sign_in(server, OLD)["data"]["code"] == "INVALID_TOKEN"
        # Who is here lives on.
        assert client.ask({"type": "ping", "id": 2, "data": {}})["type"] == "pong"


def test_the_page_of_development_mode_signs_in_with_the_new_secret(tmp_path: Path) -> None:
    reloadable = Reloadable(tmp_path, dev=True)
    server = reloadable.server
    try:
        for secret in (OLD, NEW):
            reloadable.write(auth={"secret": secret})
            reloadable.reload()
            (token,) = re.findall(r'data-token="([^"]+)"', server.api("GET", "/", key="").body)
            with RawSocket(server.port) as client:
                client.upgrade()
                assert client.ask({"type": "auth", "id": 1, "data": {"token": token}})["type"] == "auth_success"
    finally:
        server.stop()


def test_a_secret_file_is_read_anew(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(OLD)
    reloadable = Reloadable(tmp_path, auth={"secret_file": str(tmp_path / "secret")})
    try:
        (tmp_path / "secret").write_text(NEW)
        assert sign_in(reloadable.server, NEW)["type"] == "auth_failed"
        assert reloadable.reload()["changed"] == ["auth.secret_file"]
        assert sign_in(reloadable.server, NEW)["type"] == "auth_success"
    finally:
        reloadable.server.stop()


def test_api_keys_change_at_once(reloadable: Reloadable) -> None:
    other = "the-second-key-of-the-test"
    reloadable.write(api={"keys": [KEY, {"key": other, "scopes": ["admin"], "name": "ops"}]})
    reloadable.reload()
    reloadable.write(api={"keys": [{"key": other, "scopes": ["admin"], "name": "ops"}]})
    assert reloadable.reload(other)["changed"] == ["api.keys"]
    assert reloadable.server.api("POST", "/api/reload", key=KEY).status == 401
    assert reloadable.server.api("GET", "/api/nodes", key=other).status == 403


def test_doors_go_by_other_limits_and_origins(reloadable: Reloadable) -> None:
    server = reloadable.server
    origin = {"Origin": "https://app.example"}
    with RawSocket(server.port) as client, RawSocket(server.port) as stranger:
        client.upgrade()
        assert stranger.upgrade(origin).status == 403
        reloadable.write(
            server={
                "allowed_origins": ["https://app.example"],
                "max_message_size": 300,
                "max_body_size": 300,
                "max_connections": 2,
            },
            delivery={"max_queue_size": 5_000},
        )
        assert reloadable.reload()["changed"] == [
            "server.allowed_origins",
            "server.max_connections",
            "server.max_message_size",
            "server.max_body_size",
            "delivery.max_queue_size",
        ]
        with RawSocket(server.port) as welcome, RawSocket(server.port) as too_many:
            assert welcome.upgrade(origin).status == 101
            assert too_many.upgrade(origin).status == 503
            for each in (client, welcome):
                each.send_message({"type": "ping", "id": 1, "data": "x" * 400})
                assert each.close_code() == 1009
    assert server.api("POST", "/api/publish", {"channel": "public:a", "data": "x" * 400}).status == 413


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f'[auth]\nsecret = "{OLD}"\n[server]\nmax_conections = 1\n', "max_conections: unknown key"),
        (f'[auth]\nsecret = "{OLD}"\n[api', "line 3"),
        ('[auth]\nsecret_file = "/nowhere/secret"\n', "expected a readable file"),
        ("", "no way to verify tokens"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(reloadable: Reloadable, text: str, line: str) -> None:
    server = reloadable.server
    reloadable.write(text)
    said = server.api("POST", "/api/reload")
    assert said.status == 400
    assert line in said.body["error"]["message"]
    assert "\n" not in said.body["error"]["message"]
    assert server.api("GET", "/api/nodes").status == 200
    assert sign_in(server, OLD)["type"] == "auth_success"
    assert "nothing has changed" in server.log
    assert "Traceback" not in server.log


def test_a_file_that_is_gone_changes_nothing(reloadable: Reloadable) -> None:
    (reloadable.server.place / "pushserver.toml").unlink()
    assert reloadable.server.api("POST", "/api/reload").status == 400
    assert sign_in(reloadable.server, OLD)["type"] == "auth_success"


def test_sighup_reloads_and_what_needs_a_new_start_is_named(reloadable: Reloadable) -> None:
    server = reloadable.server
    reloadable.write(server={"websocket_path": "/other", "shutdown_drain": "3s"}, log={"format": "json"})
    server.signal(signal.SIGHUP)
    wait_until(lambda: "changed: server.shutdown_drain, log.format" in server.log)
    (line,) = (json.loads(one) for one in server.log.splitlines() if "changed: server.shutdown_drain" in one)
    assert (line["event"], line["level"]) == ("reloaded", "info")
    assert line["message"].endswith("another start is needed for: server.websocket_path")
    assert server.terminate() == -signal.SIGTERM
    said = [json.loads(one) for one in server.log.splitlines() if one.startswith("{")]
    assert {"Main loop terminated.", "Server Shut Down."} <= {one["message"] for one in said}
    assert all({"time", "level", "logger", "event", "message"} <= set(one) for one in said)


def test_many_at_once_go_one_after_the_other(reloadable: Reloadable) -> None:
    server = reloadable.server
    reloadable.write(log={"level": "debug"})
    for _ in range(5):
        server.signal(signal.SIGHUP)
        reloadable.reload()
    assert "Traceback" not in server.log
    assert server.log.count("changed: log.level") == 1


def test_new_connections_are_taken_until_the_delay_is_over(start_server: Callable[..., Server]) -> None:
    server = start_server(config='[server]\nshutdown_delay = "6s"\nshutdown_drain = "1s"\n')
    server.signal(signal.SIGTERM)
    wait_until(lambda: server.api("GET", "/readyz", key="").status == 503)
    assert server.api("GET", "/readyz").body["reason"] == "stopping"
    with RawSocket(server.port) as late:
        assert late.upgrade().status == 101
        late.ask({"type": "auth", "id": 1, "data": {"token": server.token("42")}})
        assert server.api("POST", "/api/publish", {"channel": "user:42", "data": 1}).status in (200, 400)
        assert late.close_code() == 3001
    assert server.wait() == -signal.SIGTERM
    assert "Traceback" not in server.log


def test_who_loses_a_right_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    roles = {"editor": ["subscribe:private:*", "subscribe:other:*"]}
    spaces = [{"name": "news"}, {"name": "private", "subscribe": "permission"}, {"name": "other", "presence": True}]
    environment = {"PUSHSERVER_AUTH__SECRET": OLD, "PUSHSERVER_API__KEYS": json.dumps([KEY])}
    text = "".join(f"[[namespaces]]\n{''.join(f'{k} = {toml(v)}' + chr(10) for k, v in one.items())}" for one in spaces)
    server = start(
        tmp_path, config=f"[roles]\neditor = {toml(roles['editor'])}\n{text}", secret=OLD, api_key=KEY, env=environment
    )
    try:
        with RawSocket(server.port) as client, RawSocket(server.port) as other:
            for each, claims in ((client, {"roles": ["editor"]}), (other, {})):
                each.upgrade()
                each.ask({"type": "auth", "id": 1, "data": {"token": server.token("42", **claims)}})
            wanted = {"channels": ["news:1", "private:1", "other:1", "chat:tea"]}
            assert client.ask({"type": "subscribe", "id": 2, "data": wanted})["data"]["rejected"] == {}
            assert list(other.ask({"type": "subscribe", "id": 2, "data": wanted})["data"]["rejected"]) == ["private:1"]
            left = text.replace('[[namespaces]]\nname = "other"\npresence = true\n', "")
            (tmp_path / "pushserver.toml").write_text(f"[roles]\neditor = []\n{left}")
            assert server.api("POST", "/api/reload").body["changed"] == ["roles", "namespaces"]
            ended = {}
            while len(ended) < 2:
                message = client.message()
                if message["type"] == "unsubscribed":
                    ended[message["data"]["channel"]] = message["data"]["code"]
            assert ended == {"private:1": "PERMISSION_DENIED", "other:1": "UNKNOWN_CHANNEL"}
            server.api("POST", "/api/publish", {"channel": "news:1", "data": 1})
            assert client.message()["data"] == 1
            refused = client.ask({"type": "subscribe", "id": 3, "data": {"channels": ["private:1", "other:1"]}})
            assert {name: one["code"] for name, one in refused["data"]["rejected"].items()} == ended
        assert "Traceback" not in server.log
    finally:
        server.stop()


def test_limits_of_rooms_and_inboxes_change_at_once(reloadable: Reloadable) -> None:
    server = reloadable.server
    reloadable.write(
        server={"max_connections_per_user": 1, "max_channels_per_connection": 1},
        inbox={"max_messages": 2},
        rate_limits={"chat_messages_per_second": 0.01},
    )
    changed = reloadable.reload()
    assert changed["restartNeeded"] == []
    assert len(changed["changed"]) == 5, "of chat in an inbox there is never more than of all"
    for number in range(4):
        server.api("POST", "/api/notify", {"userId": "42", "data": number})
    assert len(server.api("GET", "/api/inbox?userId=42").body["messages"]) == 2
    with RawSocket(server.port) as client, RawSocket(server.port) as second:
        client.upgrade()
        assert client.ask({"type": "auth", "id": 1, "data": {"token": token(OLD)}})["type"] == "auth_success"
        second.upgrade()
        second.send_message({"type": "auth", "id": 1, "data": {"token": token(OLD)}})
        assert second.close_code() == 3504
        names = ["public:a", "public:b"]
        answers = [client.ask({"type": "subscribe", "id": name, "data": {"channels": [name]}}) for name in names]
        assert answers[1]["data"]["rejected"]["public:b"]["code"] == "LIMIT_EXCEEDED"
        chats = [client.ask({"type": "chat_message", "id": n, "data": {"content": "x"}}) for n in ("c1", "c2")]
        assert chats[1]["data"]["code"] == "RATE_LIMITED"


def test_places_of_strangers_and_their_patience_change_at_once(reloadable: Reloadable) -> None:
    server = reloadable.server
    reloadable.write(server={"max_pending_per_address": 2, "keep_alive": "3s"})
    changed = reloadable.reload()
    assert sorted(changed["changed"]) == ["server.keep_alive", "server.max_pending_per_address"]
    with contextlib.ExitStack() as stack:
        first, *_ = (stack.enter_context(RawSocket(server.port)) for _ in range(3))
        assert first.ended()
    with RawSocket(server.port) as idle:
        idle.request("GET", "/healthz")
        assert idle.response().status == 200
        # Far sooner than the 75 s of before.
        assert idle.ended()


def served(port: int) -> bytes:
    """The certificate that a listener shows."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), 10) as plain:
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
            shown = secure.getpeercert(True)
            assert shown is not None
            return shown


@pytest.mark.parametrize("kind", ["ssl", "tls"])
def test_certificates_are_read_anew_and_a_broken_one_changes_nothing(kind: str, tmp_path: Path) -> None:
    first, second = certificates(tmp_path / "first"), certificates(tmp_path / "second")
    folder = tmp_path / "served"
    folder.mkdir()

    def put(files: dict[str, Path]) -> None:
        if kind == "ssl":
            (folder / "key").write_bytes(files["key"].read_bytes())
            (folder / "cert").write_bytes(files["cert"].read_bytes())
        else:
            (folder / "127.0.0.1.pem").write_bytes(files["key"].read_bytes() + files["cert"].read_bytes())

    put(first)
    port = free_port()
    description = (
        f"ssl:{port}:interface=127.0.0.1:privateKey={folder}/key:certKey={folder}/cert"
        if kind == "ssl"
        else f"tls:{folder}:{port}:interface=\\:\\:ffff\\:127.0.0.1"
    )
    config = f"[server]\nlisten = [{json.dumps('tcp:0:interface=127.0.0.1')}, {json.dumps(description)}]\n"
    server = start(tmp_path, "--listen", description, config=config, ready=False)
    try:
        wait_until(lambda: "listens on" in server.log)
        before = served(port)
        assert before == ssl.PEM_cert_to_DER_cert(first["cert"].read_text())
        put(second)
        server.signal(signal.SIGHUP)
        wait_until(lambda: "changed: certificates" in server.log)
        assert served(port) == ssl.PEM_cert_to_DER_cert(second["cert"].read_text())
        for path in folder.iterdir():
            path.write_text("no certificate")
        server.signal(signal.SIGHUP)
        wait_until(lambda: "nothing has changed" in server.log)
        assert served(port) == ssl.PEM_cert_to_DER_cert(second["cert"].read_text())
    finally:
        server.stop()


def test_refusals_closes_and_who_steps_in_are_written_down(tmp_path: Path) -> None:
    keys = f'[{{key = "{KEY}", name = "ops"}}]'
    config = f'[auth]\nsecret = "{OLD}"\n[api]\nkeys = {keys}\n[log]\nformat = "json"\n'
    environment = {"PUSHSERVER_AUTH__SECRET": "", "PUSHSERVER_API__KEYS": ""}
    server = start(tmp_path, config=config, secret=OLD, api_key=KEY, env=environment)
    try:
        with RawSocket(server.port) as client:
            client.upgrade()
            client.send_message({"type": "auth", "id": 1, "data": {"token": token(NEW)}})
            assert client.close_code() == 3500
        with RawSocket(server.port) as client:
            assert client.upgrade({"Origin": "https://evil.example\x1b[2J"}).status == 403
        with RawSocket(server.port) as client:
            client.upgrade()
            client.ask({"type": "auth", "id": 1, "data": {"token": token(OLD)}})
            assert server.api("POST", "/api/disconnect", {"userId": "42", "reason": "a\nb"}).body == {"closed": 1}
            assert client.close_code() == 3503
    finally:
        server.stop()
    lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    named = {line["event"]: line for line in lines}
    failed, refused, closed = (named[n] for n in ("sign_in_failed", "connection_refused", "connection_closed"))
    assert (failed["code"], failed["address"], failed["reason"]) == (
        "INVALID_TOKEN",
        "127.0.0.1",
        "invalid token: wrong signature",
    )
    assert (refused["code"], refused["origin"]) == (403, "https://evil.example\\x1b[2J")
    assert (closed["code"], closed["userId"], closed["reason"]) == (3503, "42", "a\\nb")
    assert failed["connectionId"] != closed["connectionId"]
    assert (named["api_call"]["key"], named["api_call"]["message"]) == ("ops", "ops calls POST /api/disconnect")
    assert KEY not in server.log
