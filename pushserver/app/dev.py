"""Development mode: what ``--dev`` generates where it is missing, keeps, and prints once at the start.

The files lie in the state directory, each with mode 0600, and are used again by the next start:

    token_secret        signs and verifies tokens, where the configuration names no HMAC secret
    api_key             the HTTP API's key, where the configuration names none
    manhole_password    the SSH console's password, where the configuration names neither a password nor keys
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IListeningPort

from pushserver.config.sections import Config
from pushserver.config.values import SHORTEST_SECRET, ApiKey, endpoint_arguments
from pushserver.core import tokens
from pushserver.core.channels import Namespace, Rule
from pushserver.core.errors import ConfigError

TOKEN_SECRET: Final = "token_secret"
API_KEY: Final = "api_key"
MANHOLE_PASSWORD: Final = "manhole_password"
#: Where the server can be found, for commands on this machine.
ADDRESS: Final = "address"

MANHOLE_ENDPOINT: Final = "tcp:8022:interface=127.0.0.1"
#: The console's where that one is taken and nobody asked for it.
FREE_ENDPOINT: Final = "tcp:0:interface=127.0.0.1"

DEMO_NAMESPACE: Final = Namespace(
    "demo",
    subscribe=Rule.AUTHENTICATED,
    publish=Rule.AUTHENTICATED,
    history_size=50,
    presence=True,
    join_leave=True,
)

#: What a demo token may do beyond what every signed-in user may: enough for each panel of the page.
DEMO_PERMISSIONS: Final = ("subscribe:stats", "subscribe:task:*", "publish:user:*")

#: What `tokens.issue` signs with.
DEMO_ALGORITHM: Final = "HS256"

#: One day in milliseconds: a page that is left open over lunch still reconnects.
DEMO_LIFETIME: Final = 86_400_000


#: Random bytes of a generated secret; written down they are 64 characters, which is enough for every HS algorithm.
_BYTES: Final = 48


class Dev(msgspec.Struct, frozen=True, kw_only=True):
    """What development mode knows beside the configuration."""

    #: a key of the HTTP API with every scope; the first configured one where there is one
    api_key: str
    #: None where only SSH keys open the console
    manhole_password: str | None
    #: whether nobody said where the console listens, so that any port will do
    any_console_port: bool
    #: makes a token: the user id, and the time now in milliseconds
    issue: Callable[[str, int], str]

    def token(self, now: int, user_id: str = "demo") -> str:
        """A token for the page; ``now`` is in milliseconds."""
        return self.issue(user_id, now)

    def __repr__(self) -> str:
        return "Dev(<hidden>)"


def prepare(config: Config) -> tuple[Config, Dev]:
    """Generate what is missing, and turn on what development mode shows. Raises `ConfigError`."""
    state = Path(config.server.state_dir)
    auth, api, manhole = config.auth, config.api, config.manhole
    replace = msgspec.structs.replace

    if not auth.has_secret:
        keep(state, TOKEN_SECRET)
        auth = replace(auth, secret_file=str(state / TOKEN_SECRET))
    if auth.algorithms and DEMO_ALGORITHM not in auth.algorithms:
        auth = replace(auth, algorithms=(*auth.algorithms, DEMO_ALGORITHM))
    if not api.keys:
        api = replace(api, keys=(ApiKey(keep(state, API_KEY)),))
    any_console_port = not manhole.listen
    manhole = replace(manhole, listen=manhole.listen or MANHOLE_ENDPOINT)
    if not (manhole.password_file or manhole.authorized_keys):
        keep(state, MANHOLE_PASSWORD)
        manhole = replace(manhole, password_file=str(state / MANHOLE_PASSWORD))
    namespaces = config.namespaces
    if all(namespace.name != DEMO_NAMESPACE.name for namespace in namespaces):
        namespaces = (*namespaces, DEMO_NAMESPACE)

    config = replace(
        config, server=replace(config.server, page=True), auth=auth, api=api, manhole=manhole, namespaces=namespaces
    )
    password = Path(manhole.password_file).read_text(encoding="utf-8").strip() if manhole.password_file else None
    return config, Dev(
        api_key=next((key.key for key in api.keys), ""),
        manhole_password=password,
        any_console_port=any_console_port,
        issue=issuer(config),
    )


def issuer(config: Config) -> Callable[[str, int], str]:
    """Return what makes a token that the configuration verifies, of a user and the time now in milliseconds. Raises
    OSError where its secret cannot be read."""
    auth = config.auth
    secret = auth.hmac_secrets()[0]
    lifetime = min(DEMO_LIFETIME, auth.max_token_lifetime)

    def issue(user_id: str, now: int) -> str:
        return tokens.issue(
            secret,
            user_id,
            now,
            lifetime,
            permissions=DEMO_PERMISSIONS,
            user_claim=auth.user_claim,
            issuer=auth.issuer,
            audience=auth.audience,
        )

    return issue


async def open_console(
    config: Config, dev: Dev | None, listen: Callable[[str], Awaitable[IListeningPort]]
) -> tuple[Config, IListeningPort]:
    """Open the console's endpoint; return the configuration that says where it is, and the listening port.

    ``listen`` opens an endpoint, or raises `ConfigError`. Where that fails and nobody asked for this one, as when a
    second server starts on the machine, a free port is taken instead.
    """
    manhole = config.manhole
    try:
        return config, await listen(manhole.listen)
    except ConfigError:
        if dev is None or not dev.any_console_port:
            raise
    port = await listen(FREE_ENDPOINT)
    found = _with_port(FREE_ENDPOINT, port)
    return msgspec.structs.replace(config, manhole=msgspec.structs.replace(manhole, listen=found)), port


def with_ports(config: Config, ports: Sequence[IListeningPort], console: IListeningPort | None) -> Config:
    """Return a configuration that says where the server listens, also where it left the port to the system (``tcp:0``).

    ``ports``: those of `server.listen` and then of `server.api_listen`, in order. It is for those who look for the
    server; a reload compares what was configured.
    """
    replace, server, manhole = msgspec.structs.replace, config.server, config.manhole
    public, private = ports[: len(server.listen)], ports[len(server.listen) :]
    server = replace(
        server,
        listen=tuple(map(_with_port, server.listen, public)),
        api_listen=tuple(map(_with_port, server.api_listen, private)),
    )
    if console is not None:
        manhole = replace(manhole, listen=_with_port(manhole.listen, console))
    return replace(config, server=server, manhole=manhole)


def _with_port(description: str, port: IListeningPort) -> str:
    """Return an endpoint with its real port in place of a 0."""
    host = port.getHost()
    if not isinstance(host, IPv4Address | IPv6Address):
        return description
    # An address has its colons behind backslashes.
    return re.sub(r"(?<!\\)(:(?:port=)?)0(?=:|$)", rf"\g<1>{host.port}", description, count=1)


def keep(state: Path, name: str) -> str:
    """The secret of that name under the state directory, made now where there is none yet.

    The file appears under its name only when it is whole, so that several processes which start at once all read the
    same one. Raises `ConfigError` where the directory cannot be used.
    """
    path = state / name
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _write_once(path, secrets.token_urlsafe(_BYTES))
        path.chmod(0o600)
        secret = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as problem:
        said = problem.strerror if isinstance(problem, OSError) else "not text"
        raise ConfigError(
            f"server.state_dir = {state}: expected a directory where {name} can be kept: {said}"
        ) from None
    if len(secret) < SHORTEST_SECRET:
        raise ConfigError(f"{path}: expected at least {SHORTEST_SECRET} characters; remove the file to have a new one")
    return secret


def _write_once(path: Path, secret: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
    finally:
        temporary.unlink()


def address(description: str) -> str:
    """The address of the page on a listening endpoint, or the socket's path where no browser can reach it."""
    positional, keywords = endpoint_arguments(description)
    if positional[0] == "haproxy":
        positional = positional[1:]
    kind, *rest = positional
    if kind == "unix":
        return f"unix:{rest[0] if rest else keywords.get('address', '')}"
    place = 1 if kind == "tls" else 0
    port = rest[place] if len(rest) > place else keywords.get("port", "")
    scheme, usual = ("https", "443") if kind in ("ssl", "tls") else ("http", "80")
    host = keywords.get("interface", "127.0.0.1")
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}/" if port == usual else f"{scheme}://{host}:{port}/"


def leave_address(config: Config) -> None:
    """Writes down where the server listens, for `pushctl` to find it."""
    path = Path(config.server.state_dir) / ADDRESS
    path.write_text(_address_line(config), encoding="utf-8")


def _address_line(config: Config) -> str:
    return address((config.server.api_listen or config.server.listen)[0]) + "\n"


def withdraw_address(config: Config) -> None:
    """Takes away what `leave_address` wrote, unless another server has written its own there since."""
    path = Path(config.server.state_dir) / ADDRESS
    try:
        if path.read_text(encoding="utf-8", errors="replace") == _address_line(config):
            path.unlink()
    except OSError:
        # It stays then, as after a crash: no reason to stop in disorder.
        pass


def greet(config: Config, dev: Dev, now: int) -> None:
    """Says once, at the start, where the server is and how to get in; ``now`` is in milliseconds."""
    leave_address(config)
    # Past twistd's log, which may be a file that others read.
    terminal = sys.__stdout__
    if terminal is not None:
        terminal.write(banner(config, dev, now))
        terminal.flush()


def banner(config: Config, dev: Dev, now: int) -> str:
    """What is printed once at the start; ``now`` is in milliseconds."""
    host, port = _ssh(config.manhole.listen)
    page = address(config.server.listen[0])
    lines = {
        "page": page,
        # A fragment is sent to no server: the page takes the key from it, for the panel that needs one.
        "operator": f"{page}#key={quote(dev.api_key, safe='')}",
        "token": dev.token(now),
        "api key": dev.api_key,
        "console": f"ssh -p {port} {config.manhole.username}@{host}",
    }
    if dev.manhole_password is not None:
        lines["password"] = dev.manhole_password
    width = max(len(name) for name in lines)
    body = "\n".join(f"  {name:<{width}}  {value}" for name, value in lines.items())
    return f"pushserver in development mode, on this machine alone\n{body}\n"


def _ssh(description: str) -> tuple[str, str]:
    positional, keywords = endpoint_arguments(description)
    port = positional[1] if len(positional) > 1 else keywords.get("port", "22")
    return keywords.get("interface", "127.0.0.1"), port
