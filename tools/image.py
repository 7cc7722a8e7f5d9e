"""The image of the Dockerfile: built, started, killed, and started again on the same files.

    python -m tools.image        make image

Its base is a Debian of the machine's own release, which `debootstrap` puts together from packages, so that no registry
of images is needed; it trusts whom the machine trusts. `buildah` builds and runs without a daemon, in its isolation by
chroot, in a network of its own. All of it lies in ``build/image``, and it wants root. Nothing that it started is left
when it ends, by a signal neither. Exit status 1 where something does not hold.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
BUILD: Final = ROOT / "build" / "image"
#: Where the machine's programs, and what is installed with Python in the base, find whom to trust.
TRUSTED: Final = "etc/ssl/certs/ca-certificates.crt"
#: Packages of the base: what the Dockerfile says that it needs.
PACKAGES: Final = ("python3", "python3-venv", "ca-certificates")
BASE, IMAGE = "localhost/base", "localhost/pushserver"
STATE: Final = "/var/lib/pushserver"
#: The user that the image has for it, and its group.
USER: Final = 10001
#: Seconds until the server answers, or has ended.
PATIENCE: Final = 60.0
#: Before a command: whatever it starts ends with it, mounts too, also where it is killed.
WHOLLY: Final = ("unshare", "--mount-proc", "--pid", "--fork", "--kill-child")


class Broken(Exception):
    """Something does not hold."""


def run(*command: str, log: str = "") -> str:
    """Run a program, and return what it says on standard output. Raises `Broken` with the end of all that it said."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if log:
        (BUILD / log).write_text(done.stdout + done.stderr)
    if done.returncode:
        words = [word for word in command if word not in WHOLLY]
        raise Broken(f"{' '.join(words[:3])}: status {done.returncode}\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def buildah(*arguments: str) -> list[str]:
    """Return the command, with everything that it keeps in the folder of this build."""
    places = ["--root", str(BUILD / "storage"), "--runroot", str(BUILD / "run"), "--storage-driver", "vfs"]
    return [*WHOLLY, "buildah", *places, *arguments]


def debian() -> Path:
    """Return the archive of a small Debian with Python, made where it is not there."""
    release = _release()
    root, made, archive = (BUILD / f"{release}.{kind}" for kind in ("root", "part", "tar"))
    if not archive.exists():
        shutil.rmtree(root, ignore_errors=True)
        packages = f"--include={','.join(PACKAGES)}"
        run(*WHOLLY, "debootstrap", "--variant=minbase", packages, release, str(root), log="debootstrap")
        # What pip needs where a proxy looks into what is fetched.
        shutil.copyfile(f"/{TRUSTED}", root / TRUSTED)
        # Whoever runs it brings the devices.
        run("tar", "-C", str(root), "--exclude=./dev/*", "-cf", str(made), ".")
        made.rename(archive)
        shutil.rmtree(root)
    return archive


def _release() -> str:
    lines = dict(line.partition("=")[::2] for line in Path("/etc/os-release").read_text().splitlines())
    return lines["VERSION_CODENAME"].strip('"')


def build() -> dict[str, Any]:
    """Build the image; return what it says of how it is run."""
    # What an earlier build left, or one that was killed.
    for place in ("storage", "run"):
        if (BUILD / place).exists():
            shutil.rmtree(BUILD / place)
    policy = BUILD / "policy.json"
    policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
    container = run(*buildah("from", "scratch")).strip()
    try:
        run(*buildah("add", container, str(debian()), "/"))
        run(*buildah("config", "--env", f"PIP_CERT=/{TRUSTED}", container))
        run(*buildah("commit", "--signature-policy", str(policy), container, BASE))
    finally:
        run(*buildah("rm", container))
    # Only this format has a health check.
    options = ["--format", "docker", "--isolation", "chroot", "--signature-policy", str(policy)]
    run(*buildah("build", *options, "--build-arg", f"BASE={BASE}", "-t", IMAGE, str(ROOT)), log="build")
    found: dict[str, Any] = json.loads(run(*buildah("inspect", "--type", "image", IMAGE)))["Docker"]["config"]
    return found


@contextmanager
def network() -> Iterator[str]:
    """A network of its own, in which the image's port is free."""
    name = f"pushserver-image-{os.getpid()}"
    run("ip", "netns", "add", name)
    try:
        run("ip", "-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        run("ip", "netns", "delete", name)


class Container:
    """A container of the image, whose state lies in a folder outside of it."""

    def __init__(self, config: dict[str, Any], network: str) -> None:
        self._config = config
        self._network = network
        self._key = secrets.token_hex(16)
        self._state = BUILD / "state"
        shutil.rmtree(self._state, ignore_errors=True)
        self._state.mkdir()
        os.chown(self._state, USER, USER)
        self._name = run(*buildah("from", "--pull-never", IMAGE)).strip()
        self._process: subprocess.Popen[bytes] | None = None

    def _command(self, *words: str) -> list[str]:
        given = {"PUSHSERVER_API__KEYS": json.dumps([self._key]), "PUSHCTL_API_KEY": self._key}
        given |= {"PUSHSERVER_AUTH__SECRET": self._key * 2}
        options = [word for name, value in given.items() for word in ("--env", f"{name}={value}")]
        options += ["--isolation", "chroot", "--volume", f"{self._state}:{STATE}"]
        return ["ip", "netns", "exec", self._network, *buildah("run", *options, self._name, "--", *words)]

    def inside(self, *words: str) -> str:
        """Run a command in it, and return what it says."""
        return run(*self._command(*words))

    def start(self) -> int:
        """Start what the image starts; return its process once it answers the image's health check."""
        with open(BUILD / "server", "ab") as log:
            self._process = subprocess.Popen(self._command(*self._config["Entrypoint"]), stdout=log, stderr=log)
        kind, *check = self._config["Healthcheck"]["Test"]
        assert kind == "CMD", kind

        def healthy() -> bool:
            assert self._process is not None
            if self._process.poll() is not None:
                raise Broken(f"it has ended:\n{self.log()[-2000:]}")
            return subprocess.run(self._command(*check), capture_output=True, check=False).returncode == 0

        _until(healthy, "it is healthy")
        return self._server()

    def _server(self) -> int:
        """Return the process of the server among all that are in the network."""
        found = []
        for pid in map(int, run("ip", "netns", "pids", self._network).split()):
            # Another one may end while it is looked at.
            with suppress(FileNotFoundError, ProcessLookupError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                # The image's Python with its script: those that run it name the script too.
                if words[:2] == [b"/opt/pushserver/bin/python3", b"/opt/pushserver/bin/twistd"]:
                    found.append(pid)
        if len(found) != 1:
            raise Broken(f"of the server there are {len(found)} processes, not one:\n{self.log()[-2000:]}")
        return found[0]

    def end(self, pid: int, number: signal.Signals) -> None:
        """Send the server a signal, and wait until everything of it has gone."""
        assert self._process is not None
        os.kill(pid, number)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Broken(f"{number.name} did not end it:\n{self.log()[-2000:]}") from None
        self._process = None

    def log(self) -> str:
        return (BUILD / "server").read_text(errors="replace")

    def files(self) -> list[str]:
        return sorted(path.name for path in self._state.iterdir())

    def remove(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        run(*buildah("rm", self._name))


def _until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise Broken(f"never: {what}")
        time.sleep(0.1)


def check(holds: bool, what: str) -> None:
    """Say what holds. Raises `Broken` where it does not."""
    if not holds:
        raise Broken(what)
    show(f"   {what}")


def use(config: dict[str, Any], stack: ExitStack) -> None:
    """Start it, kill it, start it again. Raises `Broken`."""
    (BUILD / "server").unlink(missing_ok=True)
    container = Container(config, stack.enter_context(network()))
    stack.callback(container.remove)
    pid = container.start()
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    ids = {word for line in status if line.startswith(("Uid:", "Gid:")) for word in line.split()[1:]}
    check(ids == {str(USER)}, f"it runs as {USER} and its group alone, and is healthy")
    container.inside("pushctl", "notify", "42", '{"title": "Kept"}')
    container.end(pid, signal.SIGKILL)
    check(not [name for name in container.files() if name.endswith(".pid")], "killed, it leaves no pid file")
    pid = container.start()
    check('{"title":"Kept"}' in container.inside("pushctl", "inbox", "42"), "started again, it has what it kept")
    container.end(pid, signal.SIGTERM)
    check("has stopped" in container.log(), "SIGTERM ends it in order")
    check("Traceback" not in container.log(), "no traceback is in its log")


def show(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _ended(number: int, _frame: FrameType | None) -> None:
    """End in order. Another signal does not keep it from that."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def main() -> int:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _ended)
    BUILD.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as stack:
            show("-- building the image")
            config = build()
            check(str(config["User"]) == str(USER), "it is run as a user that is not root")
            show("-- running it")
            use(config, stack)
    except Broken as problem:
        show(f"broken: {problem}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
