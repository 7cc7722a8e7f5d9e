"""From a checked configuration to the rooms of a node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pushserver.config import derived
from pushserver.config.sections import Config
from pushserver.core.errors import ConfigError
from pushserver.core.events import chosen
from pushserver.core.tokens import ENDLESS
from pushserver.engine.interfaces import EventRules, OutputRules, TaskRules
from pushserver.server.auth import Authenticator
from pushserver.server.clock import Clock
from pushserver.server.events.service import EventSettings
from pushserver.server.jwks import KeySet
from pushserver.server.limits import Limits
from pushserver.server.node import Node, NodeSettings
from pushserver.server.user_rates import UserRateSettings

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IEngine


def make_node(clock: Clock, config: Config, engine: IEngine, name: str) -> Node:
    """Return the node, not started. Raises `errors.ConfigError` where its keys cannot be read."""
    keys, rules, key_set = derived.keys(config), derived.token_rules(config), key_set_of(config, clock)
    authenticator = Authenticator(keys, rules, key_set, engine.revocations, clock)
    return Node(clock, engine, derived.namespaces(config), authenticator, settings_of(config, name))


def key_set_of(config: Config, clock: Clock) -> KeySet | None:
    """Return the keys of an identity provider, not fetched; None where no address of any is configured."""
    return KeySet(config.auth.jwks_url, clock) if config.auth.jwks_url else None


def event_settings_of(config: Config) -> EventSettings:
    """Return what the work on events goes by. Raises `errors.ConfigError` where a secret cannot be read."""
    events = config.events
    types = chosen(events.types)
    try:
        webhooks = tuple(events.receivers()) if types else ()
    except (OSError, ValueError) as problem:
        raise ConfigError(f"[events]: {problem}") from None
    return EventSettings(types=types, rules=EventRules(events.retention, events.max_bytes), webhooks=webhooks)


def settings_of(config: Config, name: str) -> NodeSettings:
    """Return what the rooms of the node of this name go by."""
    auth = config.auth
    return NodeSettings(
        limits=Limits(
            node=name,
            connections_per_user=config.server.max_connections_per_user,
            channels_per_connection=config.server.max_channels_per_connection,
            inbox_size=config.inbox.max_messages,
            heartbeat_interval=config.heartbeat.interval,
            heartbeat_timeout=config.heartbeat.timeout,
            anonymous=auth.anonymous,
        ),
        auth_timeout=None if auth.anonymous else auth.timeout,
        refresh_grace=auth.refresh_grace,
        max_token_lifetime=ENDLESS if derived.token_rules(config).without_exp else auth.max_token_lifetime,
        leeway=auth.leeway,
        user_rates=UserRateSettings(
            chat=config.rate_limits.chat_messages_per_second,
            publications=config.rate_limits.publications_per_second,
            new_channels=config.rate_limits.new_channels_per_minute,
            bytes=config.rate_limits.publication_bytes_per_second,
        ),
        throttle=derived.throttle_rules(config),
        stale_after=config.tasks.stale_after,
        tasks=TaskRules(config.tasks.ttl),
        outputs=OutputRules(config.tasks.output_max_bytes),
        output_interval=config.tasks.output_interval,
        names_authors=config.centrifuge.enabled,
        events=chosen(config.events.types),
        unread_after=config.events.unread_after,
    )
