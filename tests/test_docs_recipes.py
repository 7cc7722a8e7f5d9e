"""docs/recipes.md and the receivers of docs/events.md: each program runs as it stands, with a real push server."""

from __future__ import annotations

import base64
import email.message
import http.server
import json
import mailbox
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from standardwebhooks.webhooks import Webhook

from pushserver.publisher import Publisher, PublishRefused
from tests.harness import ROOT, Server, free_port, start, wait_until
from tests.publisher.fake_api import child_environment
from tests.rawsocket import RawSocket


def sections(page: str) -> dict[str, str]:
    text = (ROOT / "docs" / page).read_text()
    return dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))


RECIPES = sections("recipes.md")
JOIN = "May this user join `doc:17`?"
MAIL = "An e-mail for what nobody read"
WEB_PUSH = "Web Push for what nobody read"
ONLINE = "Who is online"
TENANTS = "Several tenants in one server"
SECRET = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def test_every_recipe_has_a_test() -> None:
    assert list(RECIPES) == [JOIN, MAIL, WEB_PUSH, ONLINE, TENANTS]


# -- without foreign programs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the configuration of the tenants, and a key that reaches everything."""
    (config,) = blocks(RECIPES[TENANTS], "toml")
    key = "the-key-of-the-operator"
    config = config.replace("keys = [", f'keys = [\n  "{key}",')
    server = start(tmp_path_factory.mktemp("tenants"), config=config, env={"PUSHSERVER_API__KEYS": ""}, api_key=key)
    yield server
    server.stop()


def rejected(server: Server, claims: dict[str, Any], *channels: str) -> dict[str, str]:
    with RawSocket(server.port) as client:
        client.upgrade()
        client.ask({"type": "auth", "id": 1, "data": {"token": server.token(**claims)}})
        answer = client.ask({"type": "subscribe", "id": 2, "data": {"channels": list(channels)}})
        return {channel: why["code"] for channel, why in answer["data"]["rejected"].items()}


def test_tenants_do_not_reach_each_other(shared: Server) -> None:
    with (
        Publisher(shared.url, api_key="the-key-of-acmes-backend") as acme,
        Publisher(shared.url, api_key="the-key-of-globex-backend") as globex,
    ):
        assert acme.publish("acme:news", 1).offset == 1
        acme.notify("acme-42", title="Hello")
        assert len(acme.inbox("acme-42").messages) == 1
        asked: list[Callable[[], Any]] = [
            lambda: globex.publish("acme:news", 2),
            lambda: globex.notify("acme-42", title="From a stranger"),
            lambda: globex.notify(["globex-1", "acme-42"], title="From a stranger"),
            lambda: globex.inbox("acme-42"),
            lambda: globex.history("acme:news"),
            lambda: globex.presence("acme:news"),
            lambda: globex.publish("chat:lobby", 1),
        ]
        for ask in asked:
            with pytest.raises(PublishRefused, match="PERMISSION_DENIED"):
                ask()
        assert len(acme.inbox("acme-42").messages) == len(acme.history("acme:news").messages) == 1
    channels = ("acme:news", "globex:news", "chat:lobby", "status:globex-1")
    claims = {"user": "acme-42", "channels": ["acme:*"]}
    assert rejected(shared, claims, *channels) == dict.fromkeys(channels[1:], "PERMISSION_DENIED")


def test_who_is_online_is_told(shared: Server) -> None:
    (program,) = blocks(RECIPES[ONLINE], "python")
    with RawSocket(shared.port) as client:
        client.upgrade()
        client.ask({"type": "auth", "id": 1, "data": {"token": shared.token("bob", channels=["chat:*"])}})
        client.ask({"type": "subscribe", "id": 2, "data": {"channels": ["chat:lobby"]}})
        said = run_program(program, PUSHSERVER_URL=shared.url, PUSHSERVER_API_KEY=shared.api_key)
    assert said.stdout.splitlines()[0] == "bob 1", said.stderr
    assert said.stdout.splitlines()[1] in ("queued for ada", "shown to ada")


def run_program(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=child_environment(**environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# -- with foreign programs --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with what the pages install, and the mail server; what they share with this project is lent."""
    place = tmp_path_factory.mktemp("foreign")
    subprocess.run([sys.executable, "-m", "venv", place], check=True, timeout=120)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([place / "bin/python", "-c", where], capture_output=True, text=True, check=True).stdout
    (Path(packages.strip()) / "lent.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
    lines = [line for section in RECIPES.values() for block in blocks(section, "sh") for line in block.splitlines()]
    wanted = {name for line in lines if line.startswith("pip ") for name in line.split()[2:]}
    pip = [place / "bin/python", "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "-q"]
    subprocess.run([*pip, *sorted(wanted), "aiosmtpd"], check=True, capture_output=True, timeout=600)
    return place


class Application:
    """A backend of the pages, in a process of its own."""

    def __init__(self, place: Path, port: int) -> None:
        self.place = place
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    @property
    def log(self) -> str:
        return (self.place / "log").read_text()

    def ask(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
        request = urllib.request.Request(self.url + path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, ""

    def send_event(self, event: dict[str, Any], secret: str = SECRET) -> int:
        """The event as a push server sends it; the status of the answer."""
        body = json.dumps(event)
        at = datetime.now(UTC)
        signed = {
            "webhook_id": event["id"],
            "webhook_timestamp": str(int(at.timestamp())),
            "webhook_signature": Webhook(secret).sign(event["id"], at, body),
            "content_type": "application/json",
        }
        return self.ask("/push-events", body.encode(), **signed)[0]

    def is_up(self) -> bool:
        try:
            self.ask("/")
        except (urllib.error.URLError, ConnectionError):
            return False
        return True


Begin = Callable[..., Application]


@pytest.fixture
def begin(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Begin]:
    """``begin(program, packages, command, …)`` starts one that listens where 8000 stands in its command."""
    processes: list[subprocess.Popen[bytes]] = []

    def begin(program: str, command: str = "", packages: str = "", **environment: str) -> Application:
        place = tmp_path / f"application-{len(processes)}"
        place.mkdir()
        port = free_port("0.0.0.0")
        path = f"{request.getfixturevalue('foreign')}/bin:{os.environ['PATH']}"
        if not command:
            # The first line says how it is started.
            command = program.partition("\n")[0].partition(": ")[2]
        name = "app.mjs" if "node" in command else "app.py"
        (place / name).write_text(program.replace("8000", str(port)))
        if packages:
            npm = ["npm", "install", "--no-audit", "--no-fund", *packages.split()]
            subprocess.run(npm, cwd=place, check=True, capture_output=True, timeout=300)
        given = {**os.environ, "PYTHONUNBUFFERED": "1", "PATH": path, **environment}
        with open(place / "log", "wb") as log:
            processes.append(
                subprocess.Popen(
                    ["bash", "-ec", f"exec env {command.replace('8000', str(port))}"],
                    cwd=place,
                    env=given,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )
        application = Application(place, port)
        wait_until(application.is_up, 60, application.log)
        return application

    yield begin
    for process in processes:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


@pytest.mark.full
@pytest.mark.parametrize("framework", ["FastAPI", "Django", "Express"])
def test_a_document_is_opened_by_who_may(framework: str, begin: Begin, tmp_path: Path) -> None:
    page = RECIPES[JOIN]
    fastapi, django, client = blocks(page, "python")
    (express,) = blocks(page, "js")
    program = {"FastAPI": fastapi, "Django": django, "Express": express}[framework]
    server = start(tmp_path, config=blocks(page, "toml")[0])
    try:
        packages = "express jsonwebtoken" if framework == "Express" else ""
        application = begin(program, packages=packages, PUSH_TOKEN_SECRET=server.secret)

        def open_as(user: str) -> subprocess.CompletedProcess[str]:
            given = {"PUSH_URL": server.ws_url, "PUSH_TOKEN": server.token(user), "PUSH_USER": user}
            return run_program(client, DOC_TOKEN_URL=f"{application.url}/doc-token/17", **given)

        assert open_as("ada").stdout == "open for: [('ada', 'editor')]\n{'title': 'Draft'}\n"
        reader = open_as("bob")
        assert reader.stdout == "open for: [('bob', 'reader')]\n"
        assert "PERMISSION_DENIED" in reader.stderr
        assert open_as("eve").stdout == "UNAUTHORIZED: not your document\n"
    finally:
        server.stop()


def with_webhook(place: Path, config: str, application: Application) -> Server:
    """A server that tells this application, and waits for a second where the page says five minutes."""
    (place / "webhook").write_text(SECRET)
    config = re.sub(r'secret_file = ".*?"', f'secret_file = "{place / "webhook"}"', config)
    config = re.sub(r'url = ".*?"', f'url = "{application.url}/push-events"', config)
    return start(place, config=config.replace('"5m"', '"1s"'))


def unread(event_id: str, user: str, data: Any) -> dict[str, Any]:
    told = {"userId": user, "offset": 1, "epoch": "e", "messageId": "m", "type": "user_notification", "data": data}
    return {"id": event_id, "type": "inbox.unread", "timestamp": 1, "data": {**told, "acked": False}}


@pytest.mark.full
@pytest.mark.parametrize("framework", ["FastAPI", "Express"])
def test_a_receiver_of_events(framework: str, begin: Begin, tmp_path: Path) -> None:
    page = sections("events.md")["Webhooks"]
    if framework == "FastAPI":
        (program,) = blocks(page, "python")
        receiver = begin(program, "uvicorn app:app --port 8000", PUSH_EVENTS_SECRET=SECRET)
    else:
        (program,) = blocks(page, "js")
        receiver = begin(program, "node app.mjs", "express standardwebhooks", PUSH_EVENTS_SECRET=SECRET)
    assert receiver.send_event(unread("event-1", "42", {"n": 1})) == 204
    assert receiver.send_event(unread("event-1", "42", {"n": 1})) == 204
    assert receiver.send_event(unread("event-2", "42", {"n": 2}), "whsec_" + "A" * 32) == 401
    assert receiver.log.count("an e-mail to 42") == 1
    config = '[events]\ntypes = ["inbox.unread"]\nunread_after = "5m"\n[[events.webhooks]]\nname = "mail"\nurl = ""\n'
    server = with_webhook(tmp_path, config + 'secret_file = ""\n', receiver)
    try:
        with Publisher(server.url, api_key=server.api_key) as publisher:
            publisher.notify("ada", title="Your report")
        wait_until(lambda: "an e-mail to ada" in receiver.log, 60, "the event")
        assert "Your report" in receiver.log
    finally:
        server.stop()


@pytest.fixture
def mails(foreign: Path, tmp_path: Path) -> Iterator[tuple[int, Callable[[], list[email.message.Message]]]]:
    """A mail server, and what it has taken."""
    port, box = free_port(), tmp_path / "mails"
    command = [foreign / "bin/python", "-m", "aiosmtpd", "-n", "-l", f"127.0.0.1:{port}"]
    process = subprocess.Popen([*command, "-c", "aiosmtpd.handlers.Mailbox", str(box)])

    def is_up() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(is_up, 60, "the mail server")
    yield port, lambda: [*mailbox.Maildir(box)]
    process.terminate()
    process.wait(20)


@pytest.mark.full
def test_a_mail_is_sent_for_what_nobody_read(begin: Begin, mails: Any, tmp_path: Path) -> None:
    port, taken = mails
    (program,) = blocks(RECIPES[MAIL], "python")
    given = {"PUSH_EVENTS_SECRET": SECRET, "SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(port)}
    receiver = begin(program, **given)
    (tmp_path / "server").mkdir()
    server = with_webhook(tmp_path / "server", blocks(RECIPES[MAIL], "toml")[0], receiver)
    try:
        with Publisher(server.url, api_key=server.api_key) as publisher:
            publisher.notify("nobody-knows", title="No address")
            publisher.notify("ada", title="Your report", message="It is ready.")
        (mail,) = wait_until(taken, 60, "the mail")
        assert (mail["To"], mail["Subject"]) == ("ada@example.com", "Your report")
        assert mail.get_payload().strip() == "It is ready."
    finally:
        server.stop()
    # An event that comes twice is one mail; one that nobody signed is none.
    assert [receiver.send_event(unread("twice", "ada", {"title": "Again"})) for _ in range(2)] == [204, 204]
    assert receiver.send_event(unread("forged", "ada", {"title": "Forged"}), "whsec_" + "A" * 32) == 401
    assert sorted(mail["Subject"] for mail in taken()) == ["Again", "Your report"]


class PushService(http.server.ThreadingHTTPServer):
    """What a browser's maker runs: takes encrypted messages for browsers."""

    def __init__(self) -> None:
        self.taken: list[tuple[dict[str, str], bytes]] = []
        self.status = 201
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                service.taken.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(service.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


#: What the browser does with a message.
DECRYPT = """
import base64, json, sys
import http_ece
from cryptography.hazmat.primitives.serialization import load_pem_private_key
given = json.load(sys.stdin)
key = load_pem_private_key(given["key"].encode(), None)
body, secret = base64.b64decode(given["body"]), base64.b64decode(given["auth"])
print(http_ece.decrypt(body, private_key=key, auth_secret=secret, version="aes128gcm").decode())
"""


@pytest.mark.full
def test_a_browser_can_read_what_is_pushed_to_it(begin: Begin, foreign: Path, tmp_path: Path) -> None:
    vapid, browser = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    (tmp_path / "vapid.pem").write_bytes(vapid.private_bytes(*pem))
    point = browser.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    auth = secrets.token_bytes(16)
    service = PushService()
    try:
        (program,) = blocks(RECIPES[WEB_PUSH], "python")
        receiver = begin(program, PUSH_EVENTS_SECRET=SECRET, VAPID_KEY_FILE=str(tmp_path / "vapid.pem"))
        keys = {
            name: base64.urlsafe_b64encode(key).decode().rstrip("=")
            for name, key in (("p256dh", point), ("auth", auth))
        }
        subscription = {"endpoint": f"http://127.0.0.1:{service.server_address[1]}/push/1", "keys": keys}
        assert receiver.ask("/web-push/ada", json.dumps(subscription).encode())[0] == 204
        (tmp_path / "server").mkdir()
        server = with_webhook(tmp_path / "server", blocks(RECIPES[MAIL], "toml")[0], receiver)
        try:
            with Publisher(server.url, api_key=server.api_key) as publisher:
                publisher.notify("ada", title="Your report", message="It is ready.")
            wait_until(lambda: service.taken, 60, "the message")
        finally:
            server.stop()
        ((headers, body),) = service.taken
        assert headers["content-encoding"] == "aes128gcm"
        assert headers["authorization"].startswith("vapid t=")
        sent = {
            "key": browser.private_bytes(*pem).decode(),
            "body": base64.b64encode(body).decode(),
            "auth": base64.b64encode(auth).decode(),
        }
        read = subprocess.run(
            [foreign / "bin/python", "-c", DECRYPT], input=json.dumps(sent), capture_output=True, text=True, check=True
        )
        assert json.loads(read.stdout) == {"title": "Your report", "message": "It is ready."}
        # A browser that has unsubscribed is asked once more, and forgotten.
        service.status = 410
        events = [unread(f"event-{n}", "ada", {"title": "Gone"}) for n in range(2)]
        assert [receiver.send_event(event) for event in events] == [204, 204]
        assert len(service.taken) == 2
    finally:
        service.shutdown()
        service.server_close()
