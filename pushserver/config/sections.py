"""The sections of the configuration: their keys, defaults and types, and how each is read.

A section is a struct whose fields are its keys: the type that the program uses (durations are integer milliseconds,
sizes integer bytes, lists tuples), the default, and the `Setting` that reads it. Secrets are in no repr.
"""

from __future__ import annotations

import typing
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from pushserver.config.values import (
    API_KEY,
    CIDR,
    EVENT_TYPES,
    HTTP_URL,
    ORIGIN,
    PERMISSION,
    REDIS_URL,
    SECRET,
    SENTINEL,
    WEBHOOKS,
    ApiKey,
    Setting,
    WebhookEntry,
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
from pushserver.core.channels import Namespace, Rule
from pushserver.core.events import chosen
from pushserver.core.tokens import ALGORITHMS, Keys
from pushserver.core.webhooks import Webhook, key_of

LOG_LEVELS: Final = ("debug", "info", "warn", "error", "critical")


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
        if value and (name == "contents" or (setting is not None and setting.secret)):
            return "<hidden>"
        return shown(value) if isinstance(value, str) else repr(value)


class ServerSection(Section, frozen=True, kw_only=True):
    listen: Annotated[tuple[str, ...], listing(endpoint(), "endpoints")] = ("tcp:8080:interface=127.0.0.1",)
    state_dir: Annotated[str, text("a directory", r".+")] = "var"
    websocket_path: Annotated[str, text('a path such as "/ws"', r"(/[A-Za-z0-9._~-]+)+")] = "/ws"
    page: Annotated[bool, flag()] = False
    #: where set, the API, the metrics and details of readiness are there alone
    api_listen: Annotated[tuple[str, ...], listing(endpoint(), "endpoints")] = ()
    allowed_origins: Annotated[tuple[str, ...], listing(ORIGIN, "origins")] = ()
    max_connections: Annotated[int, whole(1)] = 10_000
    max_connections_per_user: Annotated[int, whole(1)] = 100
    max_pending_per_address: Annotated[int, whole(0)] = 250
    max_channels_per_connection: Annotated[int, whole(1)] = 128
    max_message_size: Annotated[int, whole(1)] = 65_536
    max_body_size: Annotated[int, whole(1)] = 1_048_576
    trusted_proxies: Annotated[tuple[str, ...], listing(CIDR, "networks")] = ()
    metrics_public: Annotated[bool, flag()] = False
    keep_alive: Annotated[int, duration(1_000)] = 75_000
    shutdown_delay: Annotated[int, duration(0)] = 0
    shutdown_drain: Annotated[int, duration(0)] = 10_000
    node_name: Annotated[str, text("up to 100 of letters, digits, . _ -", r"[A-Za-z0-9._-]{0,100}")] = ""


class AuthSection(Section, frozen=True, kw_only=True):
    algorithms: Annotated[tuple[str, ...], listing(choice(*sorted(ALGORITHMS)), "algorithms")] = ()
    secret: Annotated[str, SECRET] = ""
    secret_file: Annotated[str, text("a file")] = ""
    secrets: Annotated[tuple[str, ...], listing(SECRET, "secrets")] = ()
    secret_files: Annotated[tuple[str, ...], listing(text("a file", r".+"), "files")] = ()
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

    #: what the files named here held when they were last read, by path
    contents: dict[str, bytes] = {}

    @property
    def all_secret_files(self) -> tuple[str, ...]:
        """Return the paths of `secret_file` and `secret_files`, in that order."""
        return (*filter(None, [self.secret_file]), *self.secret_files)

    def hmac_secrets(self) -> tuple[bytes, ...]:
        """Return the secrets of HS* tokens in the order of their keys: all verify, and the first one signs.

        One line end at the end of a file is not part of the secret. Raises OSError where a file cannot be read.
        """
        in_files = [self._file_secret(path) for path in self.all_secret_files]
        beside = [text.encode() for text in self.secrets]
        own = [self.secret.encode()] if self.secret else []
        first = len(in_files) - len(self.secret_files)
        return (*own, *in_files[:first], *beside, *in_files[first:])

    def _file_secret(self, path: str) -> bytes:
        return self.read_file(path).removesuffix(b"\n").removesuffix(b"\r")

    def read_file(self, path: str) -> bytes:
        """Return what the file held when the configuration was checked, or else holds now. Raises OSError."""
        return self.contents[path] if path in self.contents else Path(path).read_bytes()

    def keys(self) -> Keys:
        """Return the configured secrets and public keys; those behind ``jwks_url`` are somebody else's to fetch.

        Raises OSError for a file that cannot be read, and ValueError for what is no key or too weak.
        """
        public = [self.read_file(self.public_key_file)] if self.public_key_file else []
        return Keys(self.hmac_secrets(), public)

    @property
    def has_secret(self) -> bool:
        """Return whether HS* tokens can be verified, and signed."""
        return bool(self.secret or self.secret_file or self.secrets or self.secret_files)

    @property
    def verifies(self) -> bool:
        """Return whether there is any way to verify a token."""
        return bool(self.has_secret or self.public_key_file or self.jwks_url)


class HeartbeatSection(Section, frozen=True, kw_only=True):
    interval: Annotated[int, duration()] = 25_000
    timeout: Annotated[int, duration()] = 10_000


class DeliverySection(Section, frozen=True, kw_only=True):
    max_queue_size: Annotated[int, whole(1)] = 1_048_576
    slow_consumer: Annotated[str, choice("disconnect", "drop_oldest", "latest")] = "disconnect"
    compression: Annotated[bool, flag()] = True
    compression_min_size: Annotated[int, whole()] = 512


class EngineSection(Section, frozen=True, kw_only=True):
    kind: Annotated[str, choice("embedded", "redis")] = "embedded"
    position_check: Annotated[int, duration()] = 10_000


class RedisSection(Section, frozen=True, kw_only=True):
    url: Annotated[str, REDIS_URL] = "redis://127.0.0.1:6379/0"
    prefix: Annotated[str, text("1 to 64 of letters, digits, . _ : - { }", r"[A-Za-z0-9._:{}-]{1,64}")] = "push"
    sentinels: Annotated[tuple[str, ...], listing(SENTINEL, "sentinels")] = ()
    service: Annotated[str, text("the name of a service", r"[!-~]*")] = ""
    wait_replicas: Annotated[int, whole(0, 1000)] = 0
    connect_timeout: Annotated[int, duration()] = 5_000
    command_timeout: Annotated[int, duration()] = 5_000
    #: whether a Redis that may evict what it keeps is taken
    allow_eviction: Annotated[bool, flag()] = False

    def _show(self, name: str, setting: Setting | None) -> str:
        return shown(self.url) if name == "url" else super()._show(name, setting)


class TasksSection(Section, frozen=True, kw_only=True):
    min_interval: Annotated[int, duration(0)] = 1_000
    min_delta: Annotated[float, number(0, 100)] = 1.0
    ttl: Annotated[int, duration()] = 1_800_000
    stale_after: Annotated[int, duration()] = 86_400_000
    output_max_bytes: Annotated[int, whole(1024)] = 4_194_304
    output_interval: Annotated[int, duration(0)] = 40


class InboxSection(Section, frozen=True, kw_only=True):
    max_messages: Annotated[int, whole(1)] = 100
    #: never more than ``max_messages`` once loaded
    max_chat_messages: Annotated[int, whole(0)] = 20
    max_task_messages: Annotated[int, whole(0)] = 50
    ttl: Annotated[int, duration()] = 604_800_000


class RateLimitsSection(Section, frozen=True, kw_only=True):
    """Rates; 0 is no limit."""

    messages_per_second: Annotated[float, number()] = 50.0
    burst: Annotated[int, whole(1)] = 100
    auth_attempts: Annotated[int, whole(1)] = 5
    connects_per_second: Annotated[float, number()] = 0.0
    chat_messages_per_second: Annotated[float, number()] = 5.0
    publications_per_second: Annotated[float, number()] = 100.0
    new_channels_per_minute: Annotated[float, number()] = 100.0
    publication_bytes_per_second: Annotated[float, number()] = 1_000_000.0


class ApiSection(Section, frozen=True, kw_only=True):
    keys: Annotated[
        tuple[ApiKey, ...], listing(API_KEY, 'keys, each "key" or {key = "…", scopes = […], name = "…"}')
    ] = ()


class ManholeSection(Section, frozen=True, kw_only=True):
    listen: Annotated[str, endpoint(empty=True)] = ""
    authorized_keys: Annotated[str, text("a file")] = ""
    username: Annotated[str, text("1 to 100 visible characters", r"[!-~]{1,100}")] = "admin"
    password_file: Annotated[str, text("a file")] = ""


class LogSection(Section, frozen=True, kw_only=True):
    format: Annotated[str, choice("text", "json")] = "text"
    level: Annotated[str, choice(*LOG_LEVELS)] = "info"


class EventsSection(Section, frozen=True, kw_only=True):
    #: globs of what is made; empty: nothing
    types: Annotated[tuple[str, ...], EVENT_TYPES] = ()
    unread_after: Annotated[int, duration()] = 300_000
    retention: Annotated[int, duration(1_000)] = 86_400_000
    max_bytes: Annotated[int, whole(1)] = 268_435_456
    webhooks: Annotated[tuple[WebhookEntry, ...], WEBHOOKS] = ()

    #: what the files of secrets held when the configuration was checked, by path
    contents: dict[str, bytes] = {}

    def receivers(self) -> list[Webhook]:
        """Return the webhooks as they are used: their types are at most those that are made.

        Raises OSError for a file that cannot be read, and ValueError for one that holds no secret.
        """
        made = chosen(self.types)
        return [
            Webhook(
                name=entry.name,
                url=entry.url,
                secrets=tuple(map(key_of, self._secrets(entry))),
                types=made & chosen(entry.types) if entry.types else made,
                timeout=entry.timeout,
            )
            for entry in self.webhooks
        ]

    def _secrets(self, entry: WebhookEntry) -> list[str]:
        """Return the secrets of a webhook, each once."""
        found = [entry.secret, *entry.secrets]
        if entry.secret_file:
            known = self.contents.get(entry.secret_file)
            octets = Path(entry.secret_file).read_bytes() if known is None else known
            found.append(octets.decode("utf-8", "replace").strip())
        return list(dict.fromkeys(filter(None, found)))


class CentrifugeSection(Section, frozen=True, kw_only=True):
    """The door for client SDKs of Centrifugo."""

    enabled: Annotated[bool, flag()] = False
    path: Annotated[str, text('a path such as "/connection"', r"(/[A-Za-z0-9._~-]+)+")] = "/connection"
    #: where the commands of clients come in that are sent a stream
    emulation_path: Annotated[str, text('a path such as "/emulation"', r"(/[A-Za-z0-9._~-]+)+")] = "/emulation"
    #: what clients call a user's inbox
    inbox_channel: Annotated[
        str, text('a name with {id} in it, such as "user:{id}"', r"[!-)+\--z|~]{0,50}\{id\}[!-)+\--z|~]{0,50}")
    ] = "user:{id}"
    inbox_ack: Annotated[str, choice("pong", "explicit")] = "pong"
    #: where clients of Centrifugo's server API find one; "": nowhere
    api_path: Annotated[str, text('a path such as "/centrifugo/api", or ""', r"(/[A-Za-z0-9._~-]+)*")] = ""
    #: tokens need not end
    tokens_without_exp: Annotated[bool, flag()] = False
    #: nobody needs a token, and configured namespaces are open to all; on loopback alone
    insecure: Annotated[bool, flag()] = False


#: How the keys of an entry of ``[[namespaces]]`` are read: fields of `Namespace`.
NAMESPACE: Final[dict[str, Setting]] = {
    "name": text('up to 255 visible characters without "*", "," and ":"', r"[!-)+\--9;-~]{0,255}"),
    "subscribe": choice(*Rule),
    "publish": choice(*Rule),
    "history_size": whole(0, 1_000_000),
    "history_ttl": duration(),
    "presence": flag(),
    "join_leave": flag(),
    "user_limited": flag(),
}


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set, checked."""

    server: ServerSection = ServerSection()
    auth: AuthSection = AuthSection()
    heartbeat: HeartbeatSection = HeartbeatSection()
    delivery: DeliverySection = DeliverySection()
    engine: EngineSection = EngineSection()
    redis: RedisSection = RedisSection()
    tasks: TasksSection = TasksSection()
    inbox: InboxSection = InboxSection()
    rate_limits: RateLimitsSection = RateLimitsSection()
    api: ApiSection = ApiSection()
    manhole: ManholeSection = ManholeSection()
    log: LogSection = LogSection()
    events: EventsSection = EventsSection()
    centrifuge: CentrifugeSection = CentrifugeSection()
    #: permissions by role
    roles: dict[str, tuple[str, ...]] = {}
    #: a digest of what the files of each listener's certificates held, by endpoint
    certificates: dict[str, bytes] = {}
    #: those that are configured, in the place of built-in ones or beside them
    namespaces: tuple[Namespace, ...] = ()


SECTIONS: Final[dict[str, type[Section]]] = {
    "server": ServerSection,
    "auth": AuthSection,
    "heartbeat": HeartbeatSection,
    "delivery": DeliverySection,
    "engine": EngineSection,
    "redis": RedisSection,
    "tasks": TasksSection,
    "inbox": InboxSection,
    "rate_limits": RateLimitsSection,
    "api": ApiSection,
    "manhole": ManholeSection,
    "log": LogSection,
    "events": EventsSection,
    "centrifuge": CentrifugeSection,
}

#: How the permissions of a role are read.
ROLE: Final = listing(PERMISSION, "permissions")


@cache
def keys_of(section: type[Section]) -> dict[str, Setting]:
    """How each key of a section is read, in the order of its fields."""
    hints = typing.get_type_hints(section, include_extras=True)
    return {
        name: hints[name].__metadata__[0]
        for name in section.__struct_fields__
        if isinstance(getattr(hints[name], "__metadata__", (None,))[0], Setting)
    }
