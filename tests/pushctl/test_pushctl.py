"""``pushctl`` against a real server, as a person and as a script would use it."""

from __future__ import annotations

import http.server
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import jwt
import pytest
from click.testing import CliRunner
from rich.console import Console

from pushserver.pushctl import calls, live, show
from pushserver.pushctl.options import COMMON
from pushserver.pushctl.place import ServerPlace
from pushserver.pushctl.verbs import pushctl
from tests.harness import ROOT, Server, free_port, start, wait_until

#: The server makes its own keys, as it does for a newcomer.
UNSET = {"PUSHSERVER_AUTH__SECRET": "", "PUSHSERVER_API__KEYS": ""}


class Said(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start(tmp_path_factory.mktemp("dev"), dev=True, env=UNSET)
    yield running
    running.stop()


@pytest.fixture
def ctl(server: Server) -> Callable[..., Said]:
    """Runs one command beside the server: nothing but its state directory is named."""

    def ctl(*arguments: str, stdin: str | None = None) -> Said:
        done = CliRunner().invoke(pushctl, ["--state-dir", str(server.state_dir), *arguments], input=stdin)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Said(done.exit_code, done.stdout, done.stderr)

    return ctl


def spawn(server: Server, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from pushserver.pushctl import main; main()"]
    return subprocess.Popen(
        [*command, "--state-dir", str(server.state_dir), *arguments],
        env=dict(os.environ) | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_publish_answers_with_the_position(ctl: Callable[..., Said]) -> None:
    said = ctl("--json", "publish", "demo:a", '{"n": 1}', "--message-id", "m1")
    assert (said.status, said.json["offset"]) == (0, 1)
    again = ctl("publish", "demo:a", "-", "--message-id", "m1", stdin='"other"')
    assert again.out == "published m1 at 1 (repeated)\n"
    assert ctl("publish", "public:x", "1", "--type", "app.tick").out.startswith("published ")
    history = ctl("history", "demo:a")
    assert '{"n":1}' in history.out
    assert ctl("history", "demo:none").out == "nothing is kept\n"


def test_refusals_and_mistakes_have_their_own_statuses(ctl: Callable[..., Said]) -> None:
    refused = ctl("publish", "nope:x", "1")
    assert (refused.status, refused.err) == (1, "Error: UNKNOWN_CHANNEL: no such namespace\n")
    assert ctl("publish", "demo:x", "not json").status == 2
    assert ctl("publish", "demo:x").status == 2
    assert ctl("disconnect").status == 2
    assert ctl("revoke", "--user", "1", "--jti", "2").status == 2
    assert ctl("token", "--user", "1", "--expires", "soon").status == 2
    assert ctl("--url", "ftp://x", "nodes").status == 2
    gone = ctl("--url", f"http://127.0.0.1:{free_port()}", "nodes")
    assert gone.status == 3
    assert "no answer from" in gone.err
    assert ctl("--api-key", "wrong", "nodes").status == 1


def test_the_common_options_stand_behind_a_verb_too_and_the_later_counts(server: Server, tmp_path: Path) -> None:
    def said(*arguments: str, **env: str) -> Said:
        done = CliRunner().invoke(pushctl, arguments, env=env, auto_envvar_prefix="PUSHCTL")
        return Said(done.exit_code, done.stdout, done.stderr)

    state, nowhere = ("--state-dir", str(server.state_dir)), ("--url", f"http://127.0.0.1:{free_port()}")
    here = ("--url", server.url)
    assert said("nodes", "--json", *state).json["nodes"]
    assert said("publish", "demo:o", *state, "1", "--json").json["offset"] == 1
    assert said(*nowhere, "nodes", *here, *state).status == 0
    assert said(*here, *state, "nodes", *nowhere).status == 3
    # A verb of a group stands behind two.
    assert said("--json", "task", *nowhere, "create", "u3", *here, *state).json["userId"] == "u3"
    assert said(*here, *state, "task", *nowhere, "list", "u3").status == 3
    # The command line counts more than the environment, wherever it stands.
    assert said(*here, *state, "nodes", PUSHCTL_URL=nowhere[1], PUSHCTL_NODES_URL=nowhere[1]).status == 0
    assert said("nodes", *here, *state, PUSHCTL_URL=nowhere[1]).status == 0
    assert said("nodes", *state, PUSHCTL_URL=nowhere[1]).status == 3
    # What is also the name of an option is still a verb.
    assert said("--token", "t", "token", "--user", "42", *state).out.count(".") == 2
    missing = said("stats", "--config", str(tmp_path / "missing.toml"))
    assert (missing.status, "Usage: pushctl stats" in missing.err) == (2, True)


def verbs(group: click.Group, parent: click.Context | None = None) -> Iterator[tuple[click.Command, click.Context]]:
    context = click.Context(group, parent, info_name=group.name)
    for verb in group.commands.values():
        yield verb, click.Context(verb, context, info_name=verb.name)
        if isinstance(verb, click.Group):
            yield from verbs(verb, context)


def test_the_help_of_a_verb_is_about_the_verb() -> None:
    names = {name for option in COMMON for name in (option.name, *option.opts)}
    assert len(dict(verbs(pushctl))) > 20
    for verb, context in verbs(pushctl):
        assert not names & {name for param in verb.params for name in (param.name, *param.opts)}, verb.name
        page = verb.get_help(context)
        assert "\nAlso: --url, --api-key, --token, --config, --state-dir, --json; see" in page
        assert "A key of its HTTP API" not in page
    assert "A key of its HTTP API" in pushctl.get_help(click.Context(pushctl))


def test_what_is_no_push_server_is_not_believed(ctl: Callable[..., Said]) -> None:
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, format: str, *args: object) -> None:
            """The test's output is not a log."""

    other = http.server.HTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    try:
        said = ctl("--url", f"http://127.0.0.1:{other.server_port}", "nodes")
        assert (said.status, "not an answer of a push server" in said.err) == (1, True)
    finally:
        other.shutdown()
        other.server_close()


def test_the_inbox(ctl: Callable[..., Said]) -> None:
    first = ctl("notify", "u1", '{"title": "one"}', "--ttl", "1h", "--collapse-key", "k")
    assert first.out.startswith("kept ")
    assert "handed to 0 connections" in first.out
    ctl("notify", "u1", '{"title": "two"}', "--collapse-key", "k")
    shown = ctl("inbox", "u1")
    assert "two" in shown.out
    assert "one" not in shown.out
    assert [m["data"] for m in ctl("--json", "inbox", "u1").json["messages"]] == [{"title": "two"}]
    assert ctl("inbox", "nobody").out == "the inbox is empty\n"


def test_an_inbox_is_read_and_cleared_by_offsets(ctl: Callable[..., Said]) -> None:
    for n in range(3):
        ctl("notify", "u9", f'{{"n": {n}}}')
    listed = ctl("inbox", "list", "u9")
    assert listed.out.splitlines()[-1] == "unread: 3 notification, 0 chat, 0 task"
    assert ctl("inbox", "read", "u9", "1", "3").out == "unread: 1 notification, 0 chat, 0 task\n"
    unread = ctl("--json", "inbox", "u9", "--unread").json
    assert [m["data"] for m in unread["messages"]] == [{"n": 1}]
    newest = ctl("--json", "inbox", "u9", "--limit", "2").json
    assert [(m["offset"], m["readAt"] is None) for m in newest["messages"]] == [(3, False), (2, True)]
    assert "  read  " in ctl("inbox", "u9").out
    assert ctl("inbox", "read", "u9", "3", "--unread").out == "unread: 2 notification, 0 chat, 0 task\n"
    assert ctl("inbox", "delete", "u9", "--up-to", "2").out == "deleted 2; unread: 1 notification, 0 chat, 0 task\n"
    assert ctl("--json", "inbox", "delete", "u9", "3").json["deleted"] == 1
    for wrong in (("read", "u9"), ("delete", "u9", "1", "--up-to", "1"), ("read", "u9", "0")):
        assert ctl("inbox", *wrong).status == 2
    refused = ctl("inbox", "read", "u9", "--up-to", "9")
    assert (refused.status, "INVALID_MESSAGE" in refused.err) == (1, True)


def test_a_task_from_start_to_end(ctl: Callable[..., Said]) -> None:
    assert ctl("task", "create", "u2", "--id", "t1", "--title", "Import").out == "t1  pending  0 %\n"
    assert ctl("task", "progress", "t1", "--step", "3", "--of", "10", "--message", "rows").out == (
        "t1  running  30 %  rows\n"
    )
    assert ctl("task", "progress", "t1", "10", "--force").out.startswith("t1  running  10 %")
    assert "Import" in ctl("task", "list", "u2").out
    assert "version" in ctl("task", "get", "t1").out
    assert ctl("--json", "task", "complete", "t1", '{"rows": 10}').json["result"] == {"rows": 10}
    assert ctl("task", "fail", "t1", "too late").status == 1
    ctl("task", "create", "u2", "--id", "t2")
    assert ctl("task", "fail", "t2", "no disk").out == "t2  failed  0 %  no disk\n"
    ctl("task", "create", "u2", "--id", "t3")
    assert ctl("task", "status", "t3", "running", "--message", "begun").out == "t3  running  0 %  begun\n"
    assert ctl("task", "status", "t3", "completed").out.startswith("t3  completed  100 %")
    late = ctl("task", "status", "t3", "pending")
    assert (late.status, "CONFLICT" in late.err) == (1, True)
    assert ctl("task", "status", "t3", "done").status == 2
    ctl("task", "create", "u2", "--id", "a/b")
    assert ctl("task", "cancel", "a/b", "--message", "not needed").out.startswith("a/b  cancelled")
    assert ctl("task", "complete", "t9").err == "Error: NOT_FOUND: no such task\n"
    assert ctl("task", "list", "nobody").out == "no tasks\n"


def test_what_a_task_writes(ctl: Callable[..., Said], server: Server) -> None:
    ctl("task", "create", "u2", "--id", "t5")
    place = ServerPlace(state_dir=str(server.state_dir))
    calls.call(place, "POST", "tasks/t5/output", {"text": "one\n"})
    assert ctl("task", "output", "t5").out == "one\n"
    calls.call(place, "POST", "tasks/t5/complete", {"output": {"text": "two"}})
    assert ctl("task", "output", "t5", "--follow").out == "one\ntwo"
    assert ctl("task", "output", "none").err == "Error: NOT_FOUND: no such task\n"


def test_a_token_is_one_that_the_server_takes(ctl: Callable[..., Said], server: Server) -> None:
    made = ctl("token", "--user", "7", "--expires", "10m", "--permission", "subscribe:news:*", "--channel", "a:*")
    secret = (server.state_dir / "token_secret").read_text().strip()
    claims = jwt.decode(made.out.strip(), secret, algorithms=["HS256"])
    assert (claims["sub"], claims["permissions"], claims["channels"]) == ("7", ["subscribe:news:*"], ["a:*"])
    assert claims["exp"] - claims["iat"] == 600
    assert ctl("token", "--user", "7", "--permission", "publish:").status == 1


def test_listen_prints_what_comes_and_an_operator_sees_who_listens(ctl: Callable[..., Said], server: Server) -> None:
    # Whoever listened for another test may still be going.
    wait_until(lambda: not ctl("--json", "connections").json["connections"])
    listening = spawn(server, "listen", "demo:live", "chat:lobby", "--count", "2")
    try:
        wait_until(lambda: ctl("--json", "channels", "chat:lobby").json["channels"])
        wait_until(lambda: ctl("--json", "channels", "demo:live").json["channels"])
        # Whoever listens with an API key is nobody, and in no presence.
        (one,) = ctl("--json", "connections").json["connections"]
        assert (one["userId"], one["userAgent"], one["protocol"]) == (None, "pushctl", "sse")
        assert ctl("presence", "demo:live").out == "nobody is there\n"
        assert "demo:live" in ctl("channels").out
        ctl("publish", "demo:live", '{"n": "\\u001b[2J"}')
        ctl("publish", "demo:live", "2", "--type", "app.tick")
        out, err = listening.communicate(timeout=60)
        assert listening.returncode == 0, err
        assert "\\u001b[2J" in out
        assert "\x1b" not in out
        assert "demo:live app.tick 2" in out
    finally:
        listening.kill()
        listening.wait()
    wait_until(lambda: not ctl("--json", "connections").json["connections"])
    assert ctl("connections").out == "nobody is connected\n"
    assert ctl("channels").out == "no channel is followed\n"
    assert ctl("presence", "demo:live").out == "nobody is there\n"


def test_listen_says_why_it_cannot(server: Server) -> None:
    listening = spawn(server, "listen", "nope:x")
    out, err = listening.communicate(timeout=60)
    assert listening.returncode == 1
    assert "nope:x" in err
    assert "Traceback" not in err + out


def test_listen_as_the_user_of_a_token(ctl: Callable[..., Said], server: Server) -> None:
    token = ctl("token", "--user", "ann").out.strip()
    listening = spawn(server, "--token", token, "listen", "public:ann", "--count", "1")
    try:
        wait_until(lambda: ctl("--json", "channels", "public:ann").json["channels"])
        assert ctl("--json", "connections").json["connections"][0]["userId"] == "ann"
        ctl("publish", "public:ann", "3")
        out, err = listening.communicate(timeout=60)
        assert (listening.returncode, "public:ann message 3" in out) == (0, True), err
    finally:
        listening.kill()
        listening.wait()


def test_listen_ends_quietly_when_interrupted(ctl: Callable[..., Said], server: Server) -> None:
    listening = spawn(server, "--json", "listen", "public:p")
    try:
        wait_until(lambda: ctl("--json", "channels", "public:p").json["channels"])
        ctl("publish", "public:p", '"x"')
        assert listening.stdout is not None
        assert json.loads(listening.stdout.readline())["data"] == "x"
        listening.send_signal(signal.SIGINT)
        _, err = listening.communicate(timeout=60)
        assert "Traceback" not in err
    finally:
        listening.kill()
        listening.wait()


def test_disconnect_and_revoke(ctl: Callable[..., Said], server: Server) -> None:
    listening = spawn(server, "listen", "public:kick")
    try:
        wait_until(lambda: ctl("--json", "channels", "public:kick").json["channels"])
        (one,) = ctl("--json", "connections").json["connections"]
        said = ctl("disconnect", "--connection", one["connectionId"], "--code", "3503", "--reason", "enough")
        assert said.out == "closed 1\n"
        _, err = listening.communicate(timeout=60)
        assert listening.returncode == 1
        assert "Traceback" not in err
    finally:
        listening.kill()
        listening.wait()
    assert ctl("disconnect", "--user", "nobody").out == "closed 0\n"
    assert ctl("revoke", "--user", "nobody").out == "revoked; closed 0\n"
    assert ctl("--json", "revoke", "--jti", "x").json == {"closed": 0}


def test_figures(ctl: Callable[..., Said]) -> None:
    assert "connections" in ctl("nodes").out
    assert ctl("stats").status == 0
    assert ctl("--json", "stats").json
    top = ctl("top", "--once")
    assert (top.status, "connections" in top.out) == (0, True)
    assert set(ctl("--json", "top", "--once").json) == {"stats", "channels", "nodes", "connections"}


def test_check_config(ctl: Callable[..., Said], tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(f'[auth]\nsecret = "{"s" * 40}"\n')
    bad.write_text(f'[auth]\nsecret = "{"s" * 40}"\n[hartbeat]\ninterval = "1s"\n')
    assert ctl("check-config", str(good)).out == f"{good}: ok\n"
    said = ctl("check-config", str(bad))
    assert said.status == 1
    assert "heartbeat" in said.err
    assert len(said.err.splitlines()) == 1


def test_a_configuration_says_where_the_server_is(server: Server, tmp_path: Path) -> None:
    secret = (server.state_dir / "token_secret").read_text().strip()
    key = (server.state_dir / "api_key").read_text().strip()
    config = tmp_path / "pushserver.toml"
    config.write_text(
        f'[server]\nlisten = ["tcp:{server.port}:interface=127.0.0.1"]\n[auth]\nsecret = "{secret}"\nissuer = "us"\n'
        f'[api]\nkeys = [{{ key = "unused-key-of-no-use", scopes = ["read"] }}, "{key}"]\n'
    )
    said = CliRunner().invoke(pushctl, ["--config", str(config), "nodes"])
    assert (said.exit_code, "node" in said.output) == (0, True)
    made = CliRunner().invoke(pushctl, ["--config", str(config), "token", "--user", "1"])
    assert jwt.decode(made.output.strip(), secret, algorithms=["HS256"], issuer="us")["iss"] == "us"
    broken = tmp_path / "broken.toml"
    broken.write_text("x = 1")
    assert CliRunner().invoke(pushctl, ["--config", str(broken), "nodes"]).exit_code == 1


def test_a_development_servers_file_needs_no_keys(server: Server, tmp_path: Path) -> None:
    config = tmp_path / "dev.toml"
    config.write_text('[auth]\nissuer = "us"\n')

    def said(*arguments: str) -> Said:
        done = CliRunner().invoke(pushctl, ["--config", str(config), *arguments])
        return Said(done.exit_code, done.stdout, done.stderr)

    state = ("--state-dir", str(server.state_dir))
    made = said("token", "--user", "42", *state)
    secret = (server.state_dir / "token_secret").read_text().strip()
    assert jwt.decode(made.out.strip(), secret, algorithms=["HS256"], issuer="us")["sub"] == "42"
    # It leaves server.listen alone, so that the running server's own word counts.
    assert said("nodes", "--json", *state).json["nodes"]
    # Whoever would start a server with it is still told.
    refused = said("check-config", str(config))
    assert (refused.status, "no way to verify tokens" in refused.err) == (1, True)


@pytest.mark.parametrize("kind", ["file", "environment"])
def test_where_a_configuration_listens_counts_more_than_an_address_left_behind(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    gone = f"tcp:{free_port()}:interface=127.0.0.1"
    config = tmp_path / "prod.toml"
    if kind == "file":
        config.write_text(f'[server]\nlisten = ["{gone}"]\nstate_dir = "{server.state_dir}"\n')
    else:
        config.write_text(f'[server]\nstate_dir = "{server.state_dir}"\n')
        monkeypatch.setenv("PUSHSERVER_SERVER__LISTEN", json.dumps([gone]))
    said = CliRunner().invoke(pushctl, ["--config", str(config), "nodes"])
    assert (said.exit_code, f"no answer from http://127.0.0.1:{gone.split(':')[1]}:" in said.stderr) == (3, True)
    assert CliRunner().invoke(pushctl, ["--config", str(config), "nodes", "--url", server.url]).exit_code == 0


def test_a_development_server_takes_its_address_with_it(tmp_path: Path) -> None:
    running = start(tmp_path, dev=True, env=UNSET)
    try:
        wait_until((running.state_dir / "address").exists)
        assert CliRunner().invoke(pushctl, ["--state-dir", str(running.state_dir), "nodes"]).exit_code == 0
        running.terminate()
        assert not (running.state_dir / "address").exists()
        assert (running.state_dir / "api_key").exists()
    finally:
        running.stop()


def test_the_default_endpoint_counts_too_where_the_file_names_it(tmp_path: Path) -> None:
    (tmp_path / "address").write_text("http://127.0.0.1:1/\n")
    config = tmp_path / "prod.toml"
    config.write_text(f'[server]\nstate_dir = "{tmp_path}"\n')
    assert ServerPlace(config=str(config)).url == "http://127.0.0.1:1"
    config.write_text(f'[server]\nstate_dir = "{tmp_path}"\nlisten = ["tcp:8080:interface=127.0.0.1"]\n')
    assert ServerPlace(config=str(config)).url == "http://127.0.0.1:8080"


def test_without_keys_it_says_what_it_needs(tmp_path: Path) -> None:
    for command in (["nodes"], ["token", "--user", "1"]):
        said = CliRunner().invoke(pushctl, ["--state-dir", str(tmp_path), *command])
        assert said.exit_code == 2
        assert "--state-dir" in said.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(ctl: Callable[..., Said], shell: str) -> None:
    assert "_PUSHCTL_COMPLETE" in ctl("completion", shell).out


def test_cells_are_text() -> None:
    assert show.cell("a\x1b[31mb\n") == "a·[31mb·"
    assert [show.cell(v) for v in (None, True, 1.23456, 12, ["a", 1], {"k": "v"}, 1e9)] == [
        "",
        "yes",
        "1.235",
        "12",
        "a, 1",
        "k v",
        "1000000000",
    ]
    assert show.moment(None) == ""
    assert show.moment(0).startswith("19")


def test_facts_begin_with_the_first_of_them() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(show.table(("", ""), show.facts({"users": 2, "rates": {"in": 1.5}})), end="")
    assert isinstance(console.file, io.StringIO)
    assert [line.split() for line in console.file.getvalue().splitlines()] == [["users", "2"], ["rates.in", "1.5"]]


def test_top_bears_figures_of_any_shape() -> None:
    node = {"node": "n", "startedAt": 0, "connections": 1}
    for stats in ({}, {"total": None}, {"total": {"rates": {"messagesOut": 2.5}}}, {"total": {"rates": []}}):
        assert live.view(stats, {"channels": [{"channel": "a", "connections": 1, "users": 1}], "total": 1}, [node], [])


def test_reload_and_drain(ctl: Callable[..., Said]) -> None:
    said = ctl("reload")
    assert (said.status, said.out) == (0, "changed: nothing\n")
    assert ctl("--json", "reload").json == {"changed": [], "restartNeeded": []}
    assert ctl("drain", "--over", "0s").out == "draining 0 connections; /readyz says 503\n"
    assert ctl("drain", "--over", "1s", "--undo").status == 2
    assert ctl("drain", "--undo").out == "taking connections\n"


def test_the_key_that_has_the_scope_is_used(tmp_path: Path) -> None:
    keys = '[{key = "can-only-publish", scopes = ["publish", "notify"]}, {key = "can-only-read---", scopes = ["read"]}]'
    server = start(tmp_path, config=f"[api]\nkeys = {keys}\n", env={"PUSHSERVER_API__KEYS": ""})
    try:
        place = ["--config", str(tmp_path / "pushserver.toml"), "--url", server.url]
        for arguments, status in (
            (["nodes"], 0),
            (["publish", "public:a", "1"], 0),
            (["disconnect", "--user", "1"], 1),
        ):
            assert CliRunner().invoke(pushctl, [*place, *arguments]).exit_code == status
    finally:
        server.stop()


def test_what_is_wrong_is_json_where_json_was_asked_for(ctl: Callable[..., Said]) -> None:
    def error(*words: str) -> tuple[int, str, str]:
        said = ctl("--json", *words)
        found = json.loads(said.err)["error"]
        return said.status, found["code"], found["message"]

    assert error("task", "get", "no-such-task") == (1, "NOT_FOUND", "no such task")
    assert error("disconnect") == (2, "USAGE", "either --user or --connection")
    assert error("check-config", "/nowhere.toml")[:2] == (1, "FAILED")
    assert error("--url", "http://127.0.0.1:1", "nodes")[:2] == (3, "UNREACHABLE")


def test_a_row_in_a_pipe_is_one_line(ctl: Callable[..., Said]) -> None:
    long = "x" * 190
    ctl("publish", "demo:pipe", json.dumps(long))
    assert any(long in line for line in ctl("history", "demo:pipe").out.splitlines())


def test_nodes_that_did_not_answer_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = {"connections": [], "unanswered": ["n2", "n3"]}
    monkeypatch.setattr(calls, "_call", lambda *arguments: answer)
    assert calls.call(ServerPlace(api_key="k"), "GET", "connections") is answer
    assert capsys.readouterr().err == "warning: no answer from n2, n3\n"
