"""How one configuration value is read: its kinds, their limits, and the words for what was expected.

A `Setting` stands beside the type of each key in `pushserver.config.sections`. It takes the value as TOML gives it, or
the text of an environment variable, and returns the value as the program uses it: durations become integer
milliseconds, lists become tuples. What does not fit raises `InvalidValue`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from pushserver.core import durations, events, webhooks
from pushserver.core.errors import Invalid

#: Counts and sizes stop here: what a 32-bit signed integer holds, which every consumer of them can take.
LARGEST: Final = 2**31 - 1

SCOPES: Final = ("publish", "notify", "tasks", "read", "sessions", "events", "admin")

#: The fewest bytes of an HMAC secret: RFC 7518 section 3.2 wants a key as long as the hash's output.
SHORTEST_SECRET: Final = 32
#: The fewest characters of a key of the HTTP API.
SHORTEST_KEY: Final = 16

_FLAGS: Final = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(("false", "0", "no", "off"), False)


class InvalidValue(ValueError):
    """A value that its setting does not take; ``detail`` says more than "expected …" where there is more to say."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)
        self.detail = detail


class Setting(NamedTuple):
    """How the values of one key are read."""

    #: "text", "flag", "whole", "number", "duration" or "list"
    kind: str
    #: what was expected, as it stands in an error after that word
    expected: str
    #: from the TOML value to the program's; raises `InvalidValue`
    read: Callable[[Any], Any]
    #: never shown in an error or a repr
    secret: bool = False

    def from_text(self, text: str) -> Any:
        """The TOML value that an environment variable's text stands for; raises `InvalidValue`."""
        match self.kind:
            case "flag":
                return _FLAGS.get(text.strip().lower(), text)
            case "whole" | "number":
                try:
                    return int(text) if self.kind == "whole" else float(text)
                except ValueError:
                    return text
            case "list":
                try:
                    return json.loads(text)
                except (ValueError, RecursionError):
                    raise InvalidValue("as JSON") from None
            case _:
                return text


class ApiKey(NamedTuple):
    """A key of the HTTP API, what it may do, and what the log calls it (empty: ``key-<place>``)."""

    key: str
    scopes: tuple[str, ...] = SCOPES
    name: str = ""
    #: globs of what it reaches; none: everything
    channels: tuple[str, ...] = ()

    def __repr__(self) -> str:
        reach = f", channels={self.channels!r}" if self.channels else ""
        return f"ApiKey(key=<hidden>, scopes={self.scopes!r}, name={self.name!r}{reach})"


# -- kinds ------------------------------------------------------------------------------------------------------------


def text(expected: str = "a text", pattern: str | None = None, *, secret: bool = False) -> Setting:
    """A string without control characters, all of it matching the pattern where there is one."""
    compiled = re.compile(pattern) if pattern is not None else None

    def read(value: Any) -> str:
        if not isinstance(value, str) or any(ord(character) < 32 or ord(character) == 127 for character in value):
            raise InvalidValue
        if compiled is not None and not compiled.fullmatch(value):
            raise InvalidValue
        return value

    return Setting("text", expected, read, secret)


def choice(*names: str) -> Setting:
    """One of these names; where they are members of a `StrEnum`, that member."""
    known = {str(name): name for name in names}

    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in known:
            raise InvalidValue
        return known[value]

    return Setting("text", "one of " + ", ".join(f'"{name}"' for name in names), read)


def flag() -> Setting:
    def read(value: Any) -> bool:
        if not isinstance(value, bool):
            raise InvalidValue
        return value

    return Setting("flag", "true or false", read)


def whole(minimum: int = 0, maximum: int = LARGEST) -> Setting:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise InvalidValue
        return value

    return Setting("whole", f"a whole number from {minimum} to {maximum}", read)


def number(minimum: float = 0, maximum: float = 1_000_000) -> Setting:
    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InvalidValue
        if not minimum <= value <= maximum:
            raise InvalidValue
        return float(value)

    return Setting("number", f"a number from {minimum} to {maximum}", read)


def duration(minimum: int = 1) -> Setting:
    """A duration in milliseconds, written with its unit; ``minimum`` is in milliseconds too."""

    def read(value: Any) -> int:
        try:
            amount = durations.parse(value) if isinstance(value, str) else -1
        except ValueError:
            raise InvalidValue from None
        if amount < minimum:
            raise InvalidValue
        return amount

    least = f" of at least {durations.write(minimum)}" if minimum else ""
    return Setting("duration", f'a duration{least} such as "250ms", "10s", "5m", "24h" or "7d"', read)


def listing(of: Setting, things: str) -> Setting:
    """A list whose items are read by another setting; ``things`` names them in the plural."""

    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise InvalidValue
        return tuple(_items(value, of))

    return Setting("list", f"a list of {things}", read, of.secret)


def _items(values: list[Any] | tuple[Any, ...], of: Setting) -> Iterator[Any]:
    for position, value in enumerate(values, start=1):
        try:
            yield of.read(value)
        except InvalidValue as problem:
            what = f"item {position}" if of.secret else f"item {position}, {shown(value, of)}"
            raise InvalidValue(f"{what}: {problem.detail or 'is not ' + of.expected}") from None


def shown(value: Any, setting: Setting | None = None) -> str:
    """A value as it may stand in an error: on one line, not too long, without secrets."""
    if setting is not None and setting.secret:
        return "(hidden)"
    try:
        plain = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        plain = repr(value)
    # Whatever stands between the scheme and the host of an address may be a password.
    plain = re.sub(r"(://)[^\"]*@", r"\1***@", plain)
    plain = _printable(plain)
    return plain if len(plain) <= 120 else plain[:117] + "..."


def one_line(problem: str) -> str:
    """What another library says of a mistake, on one line: it may quote what was given."""
    return _printable(" ".join(problem.split()))


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


# -- endpoints --------------------------------------------------------------------------------------------------------


def endpoint_arguments(description: str) -> tuple[list[str], dict[str, str]]:
    r"""The positional and keyword arguments of an endpoint string: ``:`` between, ``=`` inside, ``\`` escapes."""
    positional: list[str] = []
    keywords: dict[str, str] = {}
    name: str | None = None
    part = ""
    characters = iter(description + ":")
    for character in characters:
        if character == "\\":
            part += next(characters)
        elif character == "=" and name is None:
            name, part = part, ""
        elif character == ":":
            if name is None:
                positional.append(part)
            else:
                keywords[name] = part
            name, part = None, ""
        else:
            part += character
    return positional, keywords


def is_loopback(description: str) -> bool:
    """Whether only this machine can reach a server endpoint. What cannot be told counts as reachable."""
    positional, keywords = endpoint_arguments(description)
    if positional[0] == "haproxy":
        positional = positional[1:]
    if positional[:1] == ["unix"]:
        return True
    if positional[:1] not in (["tcp"], ["tcp4"], ["tcp6"], ["ssl"], ["tls"]):
        return False
    interface = keywords.get("interface", "")
    try:
        return interface == "localhost" or ipaddress.ip_address(interface).is_loopback
    except ValueError:
        return False


def certificates_digest(description: str) -> bytes:
    """Return a digest of the files that hold the certificates of a server endpoint; empty where it has none."""
    positional, keywords = endpoint_arguments(description.removeprefix("haproxy:"))
    if positional[0] == "ssl":
        paths = [Path(keywords[name]) for name in ("privateKey", "certKey", "extraCertChain") if name in keywords]
    elif positional[0] == "tls":
        folder = Path(positional[1] if len(positional) > 1 else keywords.get("path", "."))
        paths = sorted(folder.glob("*.pem"))
    else:
        return b""
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError:
            # Whoever listens there says what is wrong with it.
            digest.update(b"-")
    return digest.digest()


def endpoint(*, empty: bool = False) -> Setting:
    """A Twisted server endpoint string; its certificates, where it names any, must be readable now."""

    def read(value: Any) -> str:
        if empty and value == "":
            return ""
        if not isinstance(value, str) or not value or "\0" in value:
            raise InvalidValue
        # Twisted has no way to check an endpoint string but to make the endpoint; that installs no reactor, and
        # without a reactor to call nothing is opened.
        from twisted.internet.endpoints import serverFromString

        try:
            positional, keywords = endpoint_arguments(value)
            # systemd: looks for the sockets that it was started with, which a check elsewhere does not have.
            if positional[0] != "systemd":
                serverFromString(object(), value)  # type: ignore[no-untyped-call]
        except Exception as problem:
            raise InvalidValue(one_line(str(problem))[:160]) from None
        _check_port(positional, keywords)
        return value

    return Setting("text", 'a Twisted server endpoint such as "tcp:8080:interface=127.0.0.1"', read)


def is_any_port(description: str) -> bool:
    """Whether the system chooses the port of a server endpoint: each time another one."""
    positional, keywords = endpoint_arguments(description.removeprefix("haproxy:"))
    return "0" in (*positional[1:2], keywords.get("port"))


def _check_port(positional: list[str], keywords: dict[str, str]) -> None:
    rest = positional[1:] if positional[0] == "haproxy" else positional
    place = {"tcp": 1, "tcp4": 1, "tcp6": 1, "ssl": 1, "tls": 2}.get(rest[0])
    if place is None:
        return
    port = rest[place] if len(rest) > place else keywords.get("port", "")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InvalidValue(f"{port or 'no port'}: a port is a number from 0 to 65535")


# -- addresses --------------------------------------------------------------------------------------------------------


def _cidr(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidValue
    try:
        return str(ipaddress.ip_network(value))
    except ValueError as problem:
        raise InvalidValue(str(problem)) from None


def _origin(value: Any) -> str:
    if value == "*":
        return "*"
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://[!-.0-~]+", value):
        raise InvalidValue
    # A star stands for whole labels before a name of two at least; what it would never match is a mistake.
    name = r"[A-Za-z0-9-]+"
    if "*" in value and not re.fullmatch(rf"[^*]*://\*\.{name}(\.{name})+(:\d+)?/?", value):
        raise InvalidValue('a pattern such as "https://*.example.com"')
    return value.lower()


def _port(value: str) -> bool:
    return value.isascii() and value.isdigit() and 1 <= int(value) <= 65535


def _sentinel(value: Any) -> str:
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not host or any(character.isspace() for character in host) or not _port(port):
        raise InvalidValue
    return str(value)


def _redis_url(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidValue
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as problem:
        raise InvalidValue(str(problem)) from None
    if parts.scheme == "unix":
        if not parts.path.startswith("/") or not re.fullmatch(r"(db=\d{1,5})?", parts.query):
            raise InvalidValue('as in "unix:///run/redis.sock?db=0"')
        return value
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or port == 0:
        raise InvalidValue
    query = r"(ca=[^&=]+)?" if parts.scheme == "rediss" else ""
    if not re.fullmatch(r"/?(\d{1,5})?", parts.path) or not re.fullmatch(query, parts.query) or parts.fragment:
        raise InvalidValue(
            "after the host and the port comes the number of the database, for rediss:// perhaps ?ca=FILE"
        )
    return value


def _http_url(value: Any) -> str:
    if value == "":
        return ""
    try:
        parts = urlsplit(value) if isinstance(value, str) else None
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise InvalidValue
    except ValueError:
        raise InvalidValue from None
    return str(value)


def _api_key(value: Any) -> ApiKey:
    scopes: Any = list(SCOPES)
    name: Any = ""
    channels: Any = None
    if isinstance(value, dict):
        if not {"key"} <= set(value) <= {"key", "scopes", "name", "channels"}:
            raise InvalidValue('a table has the key "key", and perhaps "scopes", "name" and "channels"')
        channels = value.get("channels")
        value, scopes, name = value["key"], value.get("scopes", scopes), value.get("name", name)
    if not isinstance(value, str) or not re.fullmatch(rf"[!-~]{{{SHORTEST_KEY},512}}", value):
        raise InvalidValue(f"a key is {SHORTEST_KEY} to 512 visible ASCII characters")
    if not isinstance(scopes, list) or not scopes or any(scope not in SCOPES for scope in scopes):
        raise InvalidValue("scopes are some of " + ", ".join(f'"{scope}"' for scope in SCOPES))
    if not isinstance(name, str) or not re.fullmatch(r"[!-~]{0,100}", name):
        raise InvalidValue("a name is up to 100 visible ASCII characters")
    if channels is not None and (
        not isinstance(channels, list)
        or not channels
        or not all(isinstance(glob, str) and re.fullmatch(r"[!-+\--~]{1,255}", glob) for glob in channels)
    ):
        raise InvalidValue('channels are globs such as "acme:*" or "user:acme-*"')
    return ApiKey(value, tuple(scope for scope in SCOPES if scope in scopes), name, tuple(channels or ()))


# -- webhooks ---------------------------------------------------------------------------------------------------------


class WebhookEntry(NamedTuple):
    """An entry of ``[[events.webhooks]]`` as it stands there, each value checked by itself alone."""

    name: str
    url: str
    secret: str = ""
    secret_file: str = ""
    secrets: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    timeout: int = 15_000

    def __repr__(self) -> str:
        return f"WebhookEntry(name={self.name!r}, url={shown(self.url)}, types={self.types!r}, secrets=<hidden>)"


def _event_types(value: Any) -> tuple[str, ...]:
    globs: tuple[str, ...] = listing(text("a glob", r"[*a-z._]{1,64}"), "globs").read(value)
    try:
        events.chosen(globs)
    except Invalid as problem:
        raise InvalidValue(problem.message) from None
    return globs


def _webhook_url(value: Any) -> str:
    if not _http_url(value):
        raise InvalidValue
    if not (value.isascii() and value.isprintable()) or " " in value:
        # What is sent in a request's first line and as its host.
        raise InvalidValue("an address has visible ASCII characters only: a host as xn--…, other characters as %…")
    return str(value)


def _webhook_secret(value: Any) -> str:
    try:
        webhooks.key_of(value if isinstance(value, str) else "")
    except ValueError as problem:
        raise InvalidValue(str(problem)) from None
    return str(value)


EVENT_TYPES: Final = Setting("list", "a list of globs of the types of events", _event_types)
_WEBHOOK_SECRET: Final = Setting("text", '"whsec_" and base64 of 24 to 64 bytes', _webhook_secret, secret=True)
_WEBHOOK_KEYS: Final[dict[str, Setting]] = {
    "name": text("1 to 32 of a-z 0-9 -", r"[a-z0-9-]{1,32}"),
    "url": Setting("text", "an http:// or https:// address", _webhook_url),
    "secret": _WEBHOOK_SECRET,
    "secret_file": text("a file", r".+"),
    "secrets": listing(_WEBHOOK_SECRET, "secrets"),
    "types": EVENT_TYPES,
    "timeout": duration(),
}


def _webhook(value: Any) -> WebhookEntry:
    if not isinstance(value, dict):
        raise InvalidValue("a table of " + ", ".join(_WEBHOOK_KEYS))
    taken: dict[str, Any] = {}
    for key, given in value.items():
        setting = _WEBHOOK_KEYS.get(key)
        if setting is None:
            raise InvalidValue(f"{str(key)[:40]!r}: unknown key, expected one of {', '.join(_WEBHOOK_KEYS)}")
        try:
            taken[key] = setting.read(given)
        except InvalidValue as problem:
            detail = f" ({problem.detail})" if problem.detail else ""
            raise InvalidValue(f"{key} = {shown(given, setting)}: expected {setting.expected}{detail}") from None
    for key in ("name", "url"):
        if key not in taken:
            raise InvalidValue(f"expected the key {key}")
    if not {"secret", "secret_file", "secrets"} & taken.keys() or taken.get("secrets") == ():
        raise InvalidValue("expected secret, secret_file or secrets")
    return WebhookEntry(**taken)


def _webhooks(value: Any) -> tuple[WebhookEntry, ...]:
    if not isinstance(value, list | tuple):
        raise InvalidValue
    entries: list[WebhookEntry] = []
    for place, one in enumerate(value, start=1):
        name = one.get("name") if isinstance(one, dict) else None
        label = shown(name) if isinstance(name, str) else f"the entry {place}"
        try:
            entry = _webhook(one)
            if any(entry.name == other.name for other in entries):
                raise InvalidValue("name: expected one entry for each name, this is the second")
        except InvalidValue as problem:
            raise InvalidValue(f"{label}: {problem.detail}") from None
        entries.append(entry)
    return tuple(entries)


WEBHOOKS: Final = Setting("list", "a list of tables, [[events.webhooks]]", _webhooks, secret=True)

CIDR: Final = Setting("text", 'a network such as "10.0.0.0/8"', _cidr)
ORIGIN: Final = Setting("text", 'an origin such as "https://example.com" or "*"', _origin)
SENTINEL: Final = Setting("text", '"host:port"', _sentinel)
REDIS_URL: Final = Setting("text", "a redis://, rediss:// or unix:// address", _redis_url)
HTTP_URL: Final = Setting("text", "an http:// or https:// address, or nothing", _http_url)
API_KEY: Final = Setting("text", '"key" or {key = "…", scopes = ["publish", …], name = "…"}', _api_key, secret=True)
SECRET: Final = text(f"at least {SHORTEST_SECRET} bytes", secret=True)
PERMISSION: Final = text(
    '"admin" or a glob after "subscribe:", "publish:", "presence:" or "history:"',
    r"(subscribe|publish|presence|history):[!-+\--~]{1,255}|admin",
)
