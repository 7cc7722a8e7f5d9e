"""The configuration: a TOML file, the environment and the command line become one frozen, checked `Config`.

    command line  over  PUSHSERVER_<SECTION>__<KEY>  over  TOML file  over  default

Each section is a struct whose fields are its keys: the type that the program uses (durations are integer
milliseconds, sizes integer bytes, lists tuples), the default, and how a value is read (`pushserver.settings`).
Every mistake is a `pushserver.errors.ConfigError` of one line that names the source, the key, the value and what
was expected. Secrets are in no error and no repr.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from pushserver import settings
from pushserver.errors import ConfigError
from pushserver.settings import (
    API_KEY,
    CIDR,
    HTTP_URL,
    ORIGIN,
    PERMISSION,
    REDIS_URL,
    SENTINEL,
    ApiKey,
    Setting,
    Unexpected,
    choice,
    duration,
    endpoint,
    flag,
    listing,
    number,
    shown,
    text,
    whole,
)

ENVIRONMENT_PREFIX: Final = "PUSHSERVER_"

#: The fewest bytes of an HMAC secret: RFC 7518 section 3.2 wants a key as long as the hash's output.
SHORTEST_SECRET: Final = 32

HMAC: Final = ("HS256", "HS384", "HS512")
RSA: Final = ("RS256", "RS384", "RS512")
ELLIPTIC: Final = ("ES256", "ES384", "ES512")
EDWARDS: Final = ("EdDSA",)
ALGORITHMS: Final = HMAC + RSA + ELLIPTIC + EDWARDS

RULES: Final = ("anyone", "authenticated", "permission", "nobody")

#: The option of the command line that sets a key.
OPTIONS: Final = {
    "server.listen": "--listen",
    "server.state_dir": "--state-dir",
    "redis.url": "--redis",
    "engine.kind": "--redis",
    "manhole.listen": "--manhole",
}

_PATHS: Final = ("server.state_dir", "auth.secret_file", "auth.public_key_file", "manhole.authorized_keys",
                 "manhole.password_file")  # fmt: skip


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of one table of the file."""

    def __repr__(self) -> str:
        known = keys_of(type(self))
        parts = (f"{name}={self._show(name, known.get(name))}" for name in self.__struct_fields__)
        return f"{type(self).__name__}({', '.join(parts)})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        known = keys_of(type(self))
        return [(name, self._show(name, known.get(name))) for name in self.__struct_fields__]

    def _show(self, name: str, setting: Setting | None) -> str:
        value = getattr(self, name)
        if setting is not None and setting.secret and value:
            return "<hidden>"
        return shown(value) if isinstance(value, str) else repr(value)


class Server(Section, frozen=True, kw_only=True):
    listen: Annotated[tuple[str, ...], listing(endpoint(), "endpoints")] = ("tcp:8080:interface=127.0.0.1",)
    state_dir: Annotated[str, text("a directory", r".+")] = "var"
    websocket_path: Annotated[str, text('a path such as "/ws"', r"(/[A-Za-z0-9._~-]+)+")] = "/ws"
    page: Annotated[bool, flag()] = False
    allowed_origins: Annotated[tuple[str, ...], listing(ORIGIN, "origins")] = ()
    max_connections: Annotated[int, whole(1)] = 10_000
    max_connections_per_user: Annotated[int, whole(1)] = 100
    max_channels_per_connection: Annotated[int, whole(1)] = 128
    max_message_size: Annotated[int, whole(1)] = 65_536
    max_body_size: Annotated[int, whole(1)] = 1_048_576
    trusted_proxies: Annotated[tuple[str, ...], listing(CIDR, "networks")] = ()
    metrics_public: Annotated[bool, flag()] = False
    shutdown_drain: Annotated[int, duration(0)] = 10_000
    node_name: Annotated[str, text("up to 100 of letters, digits, . _ -", r"[A-Za-z0-9._-]{0,100}")] = ""


class Auth(Section, frozen=True, kw_only=True):
    algorithms: Annotated[tuple[str, ...], listing(choice(*ALGORITHMS), "algorithms")] = ()
    secret: Annotated[str, text(f"at least {SHORTEST_SECRET} bytes", secret=True)] = ""
    secret_file: Annotated[str, text("a file")] = ""
    public_key_file: Annotated[str, text("a file")] = ""
    jwks_url: Annotated[str, HTTP_URL] = ""
    issuer: Annotated[str, text()] = ""
    audience: Annotated[str, text()] = ""
    user_claim: Annotated[str, text("the name of a claim", r".+")] = "sub"
    leeway: Annotated[int, duration(0)] = 5_000
    max_token_lifetime: Annotated[int, duration()] = 2_592_000_000
    timeout: Annotated[int, duration()] = 10_000
    anonymous: Annotated[bool, flag()] = False
    refresh_grace: Annotated[int, duration(0)] = 25_000

    def hmac_secret(self) -> bytes:
        """The secret of HS* tokens, from the configuration or its file; empty where there is none.

        One line end at the end of the file is not part of the secret. Raises OSError where the file cannot be read.
        """
        if not self.secret_file:
            return self.secret.encode()
        return Path(self.secret_file).read_bytes().removesuffix(b"\n").removesuffix(b"\r")

    def public_key(self) -> bytes:
        """The PEM text of the public key; empty where there is none. Raises OSError."""
        return Path(self.public_key_file).read_bytes() if self.public_key_file else b""

    def accepted_algorithms(self) -> tuple[str, ...]:
        """The algorithms that a token may be signed with: the configured ones, or what the keys imply."""
        return self.algorithms or implied_algorithms(self)

    @property
    def verifies(self) -> bool:
        """Whether there is any way to verify a token."""
        return bool(self.secret or self.secret_file or self.public_key_file or self.jwks_url)


class Heartbeat(Section, frozen=True, kw_only=True):
    interval: Annotated[int, duration()] = 25_000
    timeout: Annotated[int, duration()] = 10_000


class Delivery(Section, frozen=True, kw_only=True):
    max_queue_size: Annotated[int, whole(1)] = 1_048_576
    slow_consumer: Annotated[str, choice("disconnect", "drop_oldest", "latest")] = "disconnect"
    compression: Annotated[bool, flag()] = True
    compression_min_size: Annotated[int, whole()] = 512


class Engine(Section, frozen=True, kw_only=True):
    kind: Annotated[str, choice("embedded", "redis")] = "embedded"
    position_check: Annotated[int, duration()] = 10_000


class Redis(Section, frozen=True, kw_only=True):
    url: Annotated[str, REDIS_URL] = "redis://127.0.0.1:6379/0"
    prefix: Annotated[str, text("1 to 64 of letters, digits, . _ : - { }", r"[A-Za-z0-9._:{}-]{1,64}")] = "push"
    sentinels: Annotated[tuple[str, ...], listing(SENTINEL, "sentinels")] = ()
    service: Annotated[str, text("the name of a service", r"[!-~]*")] = ""
    wait_replicas: Annotated[int, whole(0, 1000)] = 0
    connect_timeout: Annotated[int, duration()] = 5_000
    command_timeout: Annotated[int, duration()] = 5_000

    def _show(self, name: str, setting: Setting | None) -> str:
        return shown(self.url) if name == "url" else super()._show(name, setting)


class Tasks(Section, frozen=True, kw_only=True):
    min_interval: Annotated[int, duration(0)] = 1_000
    min_delta: Annotated[float, number(0, 100)] = 1.0
    ttl: Annotated[int, duration()] = 1_800_000
    stale_after: Annotated[int, duration()] = 86_400_000


class Inbox(Section, frozen=True, kw_only=True):
    max_messages: Annotated[int, whole(1)] = 100
    #: never more than ``max_messages`` once loaded
    max_chat_messages: Annotated[int, whole(0)] = 20
    ttl: Annotated[int, duration()] = 604_800_000


class RateLimits(Section, frozen=True, kw_only=True):
    """Rates are in events a second; 0 is no limit."""

    messages_per_second: Annotated[float, number()] = 50.0
    burst: Annotated[int, whole(1)] = 100
    auth_attempts: Annotated[int, whole(1)] = 5
    connects_per_second: Annotated[float, number()] = 0.0
    chat_messages_per_second: Annotated[float, number()] = 5.0


class Api(Section, frozen=True, kw_only=True):
    keys: Annotated[tuple[ApiKey, ...], listing(API_KEY, 'keys, each "key" or {key = "…", scopes = […]}')] = ()


class Manhole(Section, frozen=True, kw_only=True):
    listen: Annotated[str, endpoint(empty=True)] = ""
    authorized_keys: Annotated[str, text("a file")] = ""
    username: Annotated[str, text("1 to 100 visible characters", r"[!-~]{1,100}")] = "admin"
    password_file: Annotated[str, text("a file")] = ""


class NamespaceSection(Section, frozen=True, kw_only=True):
    """One entry of ``[[namespaces]]``; `given` tells what it says from what it leaves alone."""

    name: Annotated[str, text('up to 255 visible characters without "*", "," and ":"', r"[!-)+\--9;-~]{0,255}")]
    subscribe: Annotated[str, choice(*RULES)] = "authenticated"
    publish: Annotated[str, choice(*RULES)] = "permission"
    history_size: Annotated[int, whole(0, 1_000_000)] = 0
    history_ttl: Annotated[int, duration()] = 600_000
    presence: Annotated[bool, flag()] = False
    join_leave: Annotated[bool, flag()] = False
    #: the keys that stand in the entry: an entry for a built-in namespace changes these alone
    given: frozenset[str] = frozenset()


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set, checked."""

    server: Server = Server()
    auth: Auth = Auth()
    heartbeat: Heartbeat = Heartbeat()
    delivery: Delivery = Delivery()
    engine: Engine = Engine()
    redis: Redis = Redis()
    tasks: Tasks = Tasks()
    inbox: Inbox = Inbox()
    rate_limits: RateLimits = RateLimits()
    api: Api = Api()
    manhole: Manhole = Manhole()
    #: permissions by role
    roles: dict[str, tuple[str, ...]] = {}
    namespaces: tuple[NamespaceSection, ...] = ()


SECTIONS: Final[dict[str, type[Section]]] = {
    "server": Server,
    "auth": Auth,
    "heartbeat": Heartbeat,
    "delivery": Delivery,
    "engine": Engine,
    "redis": Redis,
    "tasks": Tasks,
    "inbox": Inbox,
    "rate_limits": RateLimits,
    "api": Api,
    "manhole": Manhole,
}

_ROLE: Final = listing(PERMISSION, "permissions")

#: Paths that the server answers itself.
_TAKEN: Final = ("api", "sse", "healthz", "readyz", "metrics", "pushclient.js")

SectionType = TypeVar("SectionType", bound=Section)


@cache
def keys_of(section: type[Section]) -> dict[str, Setting]:
    """How each key of a section is read, in the order of its fields."""
    hints = typing.get_type_hints(section, include_extras=True)
    return {
        name: hints[name].__metadata__[0]
        for name in section.__struct_fields__
        if isinstance(getattr(hints[name], "__metadata__", (None,))[0], Setting)
    }


def load(
    path: str | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    dev: bool = False,
    workers: int = 1,
) -> Config:
    """Read the configuration and check it as a whole.

    ``overrides`` are the command line's, by ``"section.key"``. Paths come back absolute, since ``twistd`` may change
    the working directory between now and the first use. With ``dev``, what `pushserver.dev` generates may be missing,
    and every listener must be on loopback. Raises `ConfigError`.
    """
    draft = _Draft()
    if path is not None:
        draft.add_file(path)
    draft.add_environment(environ if environ is not None else {})
    for key, value in (overrides or {}).items():
        draft.add(f"option {OPTIONS.get(key, key)}", key, value)
    return _Checks(draft).config(dev, workers)


class _Draft:
    """What the sources said so far: by full key, the value as read and where it comes from."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
        self.sources: dict[str, str] = {}
        self.roles: dict[str, tuple[str, ...]] = {}
        self.namespaces: list[NamespaceSection] = []

    def add_file(self, path: str) -> None:
        try:
            document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as problem:
            raise ConfigError(f"{path}: cannot be read: {problem.strerror}") from None
        except UnicodeDecodeError as problem:
            line = problem.object[: problem.start].count(b"\n") + 1
            raise ConfigError(f"{path}: line {line}: expected UTF-8 text") from None
        except tomllib.TOMLDecodeError as problem:
            raise ConfigError(f"{path}: {_syntax(str(problem), path)}") from None
        except (ValueError, RecursionError):
            raise ConfigError(f"{path}: expected TOML with reasonable numbers and nesting") from None
        for name, table in document.items():
            self._add_table(path, name, table)

    def _add_table(self, source: str, name: str, table: object) -> None:
        if name == "roles":
            self._add_roles(source, table)
        elif name == "namespaces":
            self._add_namespaces(source, table)
        elif name not in SECTIONS:
            raise ConfigError(_unknown_section(source, name))
        elif not isinstance(table, dict):
            raise ConfigError(f"{source}: {name} = {shown(table)}: expected a table, [{name}]")
        else:
            for key, value in table.items():
                self.add(source, f"{name}.{key}", value)

    def add_environment(self, environ: Mapping[str, str]) -> None:
        for variable in sorted(environ):
            name = variable.removeprefix(ENVIRONMENT_PREFIX)
            if name == variable:
                continue
            source, value = f"environment {variable}", environ[variable]
            if name in ("ROLES", "NAMESPACES"):
                self._add_table(source, name.lower(), _from_json(source, name.lower(), value))
            # A single underscore is somebody else's: Kubernetes sets PUSHSERVER_SERVICE_HOST and the like.
            elif "__" in name:
                section, _, key = name.lower().partition("__")
                if section == "roles":
                    self._add_roles(source, {key: _from_json(source, f"roles.{key}", value)})
                elif section not in SECTIONS:
                    raise ConfigError(_unknown_section(source, section))
                else:
                    self.add(source, f"{section}.{key}", value, is_text=True)

    def add(self, source: str, full_key: str, value: object, *, is_text: bool = False) -> None:
        section, _, key = full_key.partition(".")
        setting = keys_of(SECTIONS[section]).get(key)
        if setting is None:
            raise ConfigError(_unknown_key(source, section, key))
        self.values[section][key] = _read(source, full_key, setting, value, is_text)
        self.sources[full_key] = source

    def _add_roles(self, source: str, table: object) -> None:
        if not isinstance(table, dict):
            raise ConfigError(f"{source}: roles = {shown(table)}: expected a table of roles and their permissions")
        for role, permissions in table.items():
            self.roles[role] = _read(source, f"roles.{role}", _ROLE, permissions)

    def _add_namespaces(self, source: str, entries: object) -> None:
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ConfigError(f"{source}: namespaces = {shown(entries)}: expected a list of tables, [[namespaces]]")
        known = keys_of(NamespaceSection)
        self.namespaces = []
        for position, entry in enumerate(entries, start=1):
            label = f"namespaces[{shown(entry['name'])}]" if "name" in entry else f"namespaces[{position}]"
            if "name" not in entry:
                raise ConfigError(f"{source}: {label}: expected the key name")
            values = {}
            for key, value in entry.items():
                if key not in known:
                    raise ConfigError(f"{source}: {label}.{_word(key)}: unknown key{_nearest(key, known)}")
                values[key] = _read(source, f"{label}.{key}", known[key], value)
            if any(values["name"] == other.name for other in self.namespaces):
                raise ConfigError(f"{source}: {label}: expected one entry for each name, this is the second")
            self.namespaces.append(NamespaceSection(**values, given=frozenset(values) - {"name"}))


class _Checks:
    """What no single key can tell: the rules between keys, and the files that keys name."""

    def __init__(self, draft: _Draft) -> None:
        self._draft = draft

    def config(self, dev: bool, workers: int) -> Config:
        self._absolute_paths()
        server, auth = self._section(Server), self._section(Auth)
        engine, redis, manhole = self._section(Engine), self._section(Redis), self._section(Manhole)
        self._check_server(server)
        self._check_auth(auth, dev)
        self._check_redis(redis)
        self._check_manhole(manhole, dev)
        api = self._section(Api)
        if len({key.key for key in api.keys}) != len(api.keys):
            raise self._mistake("api.keys", "expected each key once", list(api.keys))
        if dev:
            self._check_loopback(server, manhole)
        if workers < 1:
            raise ConfigError(f"option --workers: workers = {workers}: expected a whole number from 1")
        if workers > 1 and engine.kind != "redis":
            raise ConfigError(f'option --workers: workers = {workers}: expected 1, or engine.kind = "redis" (--redis)')
        inbox = self._section(Inbox)
        chat = min(inbox.max_chat_messages, inbox.max_messages)
        return Config(
            server=server,
            auth=auth,
            heartbeat=self._section(Heartbeat),
            delivery=self._section(Delivery),
            engine=engine,
            redis=redis,
            tasks=self._section(Tasks),
            inbox=msgspec.structs.replace(inbox, max_chat_messages=chat),
            rate_limits=self._section(RateLimits),
            api=api,
            manhole=manhole,
            roles=self._draft.roles,
            namespaces=tuple(self._draft.namespaces),
        )

    def _section(self, section: type[SectionType]) -> SectionType:
        name = next(name for name, known in SECTIONS.items() if known is section)
        return section(**self._draft.values[name])

    def _absolute_paths(self) -> None:
        for full_key in _PATHS:
            section, _, key = full_key.partition(".")
            value = self._draft.values[section].get(key, getattr(SECTIONS[section](), key))
            if value:
                self._draft.values[section][key] = os.path.abspath(value)

    def _mistake(self, full_key: str, problem: str, value: object) -> ConfigError:
        source = self._draft.sources.get(full_key, "default")
        section, _, key = full_key.partition(".")
        setting = keys_of(SECTIONS[section])[key]
        return ConfigError(f"{source}: {full_key} = {shown(value, setting)}: {problem}")

    def _check_server(self, server: Server) -> None:
        if not server.listen:
            raise self._mistake("server.listen", "expected at least one endpoint", [])
        if server.websocket_path.split("/")[1] in _TAKEN:
            raise self._mistake(
                "server.websocket_path", "expected a path that the server does not use itself", server.websocket_path
            )

    def _check_auth(self, auth: Auth, dev: bool) -> None:
        if auth.secret and auth.secret_file:
            raise self._mistake("auth.secret_file", "expected either this or auth.secret, not both", auth.secret_file)
        secret = self._read_file("auth.secret_file", auth.secret_file, auth.hmac_secret)
        if (auth.secret or auth.secret_file) and len(secret) < SHORTEST_SECRET:
            key = "auth.secret_file" if auth.secret_file else "auth.secret"
            raise self._mistake(
                key,
                f"expected at least {SHORTEST_SECRET} bytes, there are {len(secret)}",
                auth.secret_file or "(hidden)",
            )
        if self._read_file("auth.public_key_file", auth.public_key_file, auth.public_key):
            try:
                key_algorithms(auth.public_key())
            except ValueError as problem:
                raise self._mistake("auth.public_key_file", f"expected {problem}", auth.public_key_file) from None
        if not auth.verifies and not dev:
            raise ConfigError(
                "no way to verify tokens: expected auth.secret, auth.secret_file, auth.public_key_file or auth.jwks_url"
                " in the configuration, or --dev"
            )
        self._check_algorithms(auth, dev)

    def _check_algorithms(self, auth: Auth, dev: bool) -> None:
        implied = implied_algorithms(auth) + (HMAC if dev else ())
        for algorithm in auth.algorithms:
            if algorithm not in implied:
                wanted = "auth.secret or auth.secret_file" if algorithm in HMAC else "a public key that fits"
                raise self._mistake("auth.algorithms", f"expected {wanted} beside {algorithm}", list(auth.algorithms))
        if auth.algorithms and (auth.secret or auth.secret_file) and not set(auth.algorithms) & set(HMAC):
            raise self._mistake("auth.algorithms", "expected an HS algorithm beside the secret", list(auth.algorithms))
        if auth.algorithms and (auth.public_key_file or auth.jwks_url) and set(auth.algorithms) <= set(HMAC):
            raise self._mistake(
                "auth.algorithms", "expected an RS, ES or EdDSA algorithm beside the public key", list(auth.algorithms)
            )

    def _check_redis(self, redis: Redis) -> None:
        if redis.sentinels and not redis.service:
            raise self._mistake("redis.sentinels", "expected redis.service beside it", list(redis.sentinels))
        if redis.service and not redis.sentinels:
            raise self._mistake("redis.service", "expected redis.sentinels beside it", redis.service)

    def _check_manhole(self, manhole: Manhole, dev: bool) -> None:
        files = {"manhole.authorized_keys": manhole.authorized_keys, "manhole.password_file": manhole.password_file}
        for full_key, path in files.items():
            if path and not self._read_file(full_key, path, Path(path).read_bytes).strip():
                raise self._mistake(full_key, "expected a file that is not empty", path)
        if manhole.listen and not (manhole.authorized_keys or manhole.password_file or dev):
            raise self._mistake(
                "manhole.listen", "expected manhole.authorized_keys or manhole.password_file beside it", manhole.listen
            )

    def _check_loopback(self, server: Server, manhole: Manhole) -> None:
        for key, listen in [*(("server.listen", one) for one in server.listen), ("manhole.listen", manhole.listen)]:
            if listen and not settings.is_loopback(listen):
                raise self._mistake(key, "expected a loopback interface (interface=127.0.0.1) with --dev", listen)

    def _read_file(self, full_key: str, path: str, read: Callable[[], bytes]) -> bytes:
        try:
            return read()
        except OSError as problem:
            raise self._mistake(full_key, f"expected a readable file: {problem.strerror}", path) from None


def implied_algorithms(auth: Auth) -> tuple[str, ...]:
    """The algorithms that the configured keys can verify."""
    implied: tuple[str, ...] = HMAC if auth.secret or auth.secret_file else ()
    if auth.jwks_url:
        return implied + RSA + ELLIPTIC + EDWARDS
    return implied + (key_algorithms(auth.public_key()) if auth.public_key_file else ())


def key_algorithms(pem: bytes) -> tuple[str, ...]:
    """The algorithms of RFC 7518 and RFC 8037 that a public key is for; ValueError says what was expected instead."""
    try:
        key = load_pem_public_key(pem)
    except Exception:
        raise ValueError("a public key in PEM form") from None
    match key:
        case rsa.RSAPublicKey():
            if key.key_size < 2048:
                raise ValueError("an RSA key of at least 2048 bits")
            return RSA
        case ec.EllipticCurvePublicKey():
            curves = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
            if key.curve.name in curves:
                return (curves[key.curve.name],)
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            return EDWARDS
    raise ValueError("an RSA, P-256, P-384, P-521, Ed25519 or Ed448 public key")


def _read(source: str, full_key: str, setting: Setting, value: object, is_text: bool = False) -> Any:
    try:
        return setting.read(setting.from_text(value) if is_text and isinstance(value, str) else value)
    except Unexpected as problem:
        detail = f" ({problem.detail})" if problem.detail else ""
        raise ConfigError(
            f"{source}: {full_key} = {shown(value, setting)}: expected {setting.expected}{detail}"
        ) from None


def _from_json(source: str, full_key: str, value: str) -> object:
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        raise ConfigError(f"{source}: {full_key} = {shown(value)}: expected JSON") from None


def _syntax(problem: str, path: str) -> str:
    """tomllib's words with the place first: ``line 3, column 5: Invalid value``."""
    match = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", problem, re.DOTALL)
    if match is None:
        return f"line {max(1, len(Path(path).read_text(encoding='utf-8').splitlines()))}: {problem}"
    return f"line {match[2]}, column {match[3]}: {' '.join(match[1].split())}"


def _word(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]{1,100}", key) else shown(key)


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f", did you mean {near[0]}?" if near else f", expected one of {', '.join(known)}"


def _unknown_key(source: str, section: str, key: str) -> str:
    known = keys_of(SECTIONS[section])
    if not difflib.get_close_matches(key, list(known), n=1, cutoff=0.6):
        elsewhere = [name for name, other in SECTIONS.items() if key in keys_of(other)]
        if elsewhere:
            return f"{source}: {section}.{_word(key)}: unknown key, did you mean {elsewhere[0]}.{key}?"
    return f"{source}: {section}.{_word(key)}: unknown key{_nearest(key, known)}"


def _unknown_section(source: str, name: str) -> str:
    elsewhere = [section for section, known in SECTIONS.items() if name in keys_of(known)]
    if elsewhere:
        return f"{source}: {_word(name)}: unknown key, did you mean {elsewhere[0]}.{name}?"
    return f"{source}: {_word(name)}: unknown section{_nearest(name, [*SECTIONS, 'roles', 'namespaces'])}"
