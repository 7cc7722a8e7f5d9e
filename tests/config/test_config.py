from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from pushserver.config.checks import load
from pushserver.config.derived import namespaces
from pushserver.config.loader import RawConfig
from pushserver.config.sections import NAMESPACE, SECTIONS, keys_of
from pushserver.config.values import SCOPES, ApiKey
from pushserver.core import durations
from pushserver.core.channels import Namespace
from pushserver.core.errors import ConfigError
from tests.harness import ROOT

SECRET = "an-hmac-secret-of-more-than-thirty-two-bytes"
Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a configuration file; return its path."""

    def file(text: str) -> str:
        path = tmp_path / "push.toml"
        path.write_text(text)
        return str(path)

    return file


def mistake(*arguments: Any, **keywords: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*arguments, **keywords)
    line = str(caught.value)
    assert "\n" not in line
    return line


# -- what is read -----------------------------------------------------------------------------------------------------


def test_the_sample_file_equals_the_defaults() -> None:
    assert load(str(ROOT / "etc/pushserver.toml"), dev=True) == load(dev=True)


def test_the_sample_file_holds_every_key() -> None:
    document = tomllib.loads((ROOT / "etc/pushserver.toml").read_text())
    assert {name: list(table) for name, table in document.items() if name != "roles"} == {
        name: list(keys_of(section)) for name, section in SECTIONS.items()
    }


def test_the_commented_namespace_of_the_sample_shows_the_defaults(write: Write) -> None:
    text = (ROOT / "etc/pushserver.toml").read_text()
    commented = text[text.index("# [[namespaces]]") :]
    (namespace,) = load(write(re.sub("^# ", "", commented, flags=re.MULTILINE)), dev=True).namespaces
    assert namespace == Namespace("news")
    assert all(f"\n# {key} = " in commented for key in NAMESPACE)


def test_the_documentation_holds_every_key_with_its_default(write: Write) -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    documented: dict[str, dict[str, str]] = {}
    for name, body in re.findall(r"^### `\[+(\w+)\]+`\n(.*?)(?=^##)", text, re.MULTILINE | re.DOTALL):
        documented[name] = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| `?(.*?)`? \|", body, re.MULTILINE))
    assert documented.pop("roles") == {}
    assert documented["namespaces"].pop("name") == "required"
    assert list(documented.pop("namespaces")) == list(NAMESPACE)[1:]
    assert {name: list(keys) for name, keys in documented.items()} == {
        name: list(keys_of(section)) for name, section in SECTIONS.items()
    }
    as_toml = "\n".join(
        f"[{name}]\n" + "\n".join(f"{key} = {default}" for key, default in keys.items())
        for name, keys in documented.items()
    )
    assert load(write(as_toml), dev=True) == load(dev=True)


def test_every_option_of_the_documentation_exists() -> None:
    from pushserver.tap import Options

    known = {f"--{name}" for name in Options().longOpt for name in [name.rstrip("=")]} - {"--help", "--version"}
    text = (ROOT / "docs/configuration.md").read_text()
    assert set(re.findall(r"^\| `(--[a-z-]+)", text, re.MULTILINE)) == known


def test_durations_are_milliseconds_and_sizes_bytes(write: Write) -> None:
    path = write(
        '[heartbeat]\ninterval = "1.5s"\ntimeout = "250ms"\n[tasks]\nttl = "7d"\n[delivery]\nmax_queue_size = 9\n'
    )
    loaded = load(path, dev=True)
    assert (loaded.heartbeat.interval, loaded.heartbeat.timeout) == (1500, 250)
    assert (loaded.tasks.ttl, loaded.delivery.max_queue_size) == (7 * 86_400_000, 9)


def test_command_line_over_environment_over_file_over_default(write: Write) -> None:
    path = write('[server]\nmax_connections = 1\nmax_body_size = 1\n[redis]\nurl = "redis://file:1/0"\n')
    environ = {"PUSHSERVER_SERVER__MAX_CONNECTIONS": "2", "PUSHSERVER_REDIS__URL": "redis://environment:1/0"}
    loaded = load(path, environ, {"redis.url": "redis://option:1/0"}, dev=True)
    assert (loaded.server.max_body_size, loaded.server.max_connections) == (1, 2)
    assert loaded.redis.url == "redis://option:1/0"
    assert loaded.server.max_message_size == 65536


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_can_come_from_the_environment(section: str) -> None:
    """Each default, written as the environment would have it, is read back as the same."""
    defaults = SECTIONS[section]()
    environ = {}
    for key, setting in keys_of(SECTIONS[section]).items():
        value: Any = getattr(defaults, key)
        if setting.kind == "duration":
            value = durations.write(value)
        elif setting.kind == "list":
            value = json.dumps(value)
        environ[f"PUSHSERVER_{section.upper()}__{key.upper()}"] = str(value)
    assert load(None, environ, dev=True) == load(dev=True)


def test_lists_roles_and_namespaces_from_the_environment() -> None:
    loaded = load(
        None,
        {
            "PUSHSERVER_SERVER__LISTEN": '["tcp:1:interface=127.0.0.1", "unix:/tmp/push"]',
            "PUSHSERVER_API__KEYS": '["the-first-of-the-keys",'
            '{"key": "the-second-of-the-keys", "scopes": ["read", "publish"], "name": "ci"}]',
            "PUSHSERVER_ROLES__EDITOR": '["publish:news:*"]',
            "PUSHSERVER_NAMESPACES": '[{"name": "news", "presence": true}]',
        },
        dev=True,
    )
    assert loaded.server.listen == ("tcp:1:interface=127.0.0.1", "unix:/tmp/push")
    assert loaded.api.keys == (
        ApiKey("the-first-of-the-keys", SCOPES),
        ApiKey("the-second-of-the-keys", ("publish", "read"), "ci"),
    )
    assert loaded.roles == {"editor": ("publish:news:*",)}
    (news,) = loaded.namespaces
    assert news == Namespace("news", presence=True)


def test_variables_of_others_are_left_alone() -> None:
    environ = {"PUSHSERVER_SERVICE_HOST": "10.0.0.1", "PUSHSERVER_PORT": "tcp://10.0.0.1:80", "PATH": "/bin"}
    assert load(None, environ, dev=True) == load(dev=True)


def test_all_roles_from_the_environment() -> None:
    assert load(None, {"PUSHSERVER_ROLES": '{"Root": ["admin"]}'}, dev=True).roles == {"Root": ("admin",)}


def test_paths_come_back_absolute(write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    monkeypatch.chdir(tmp_path)
    loaded = load(write('[auth]\nsecret_file = "secret"\n'))
    assert loaded.auth.secret_file == str(tmp_path / "secret")
    assert loaded.server.state_dir == str(tmp_path / "var")


def test_chat_never_has_more_room_than_the_inbox(write: Write) -> None:
    assert load(write("[inbox]\nmax_messages = 3\n"), dev=True).inbox.max_chat_messages == 3


# -- mistakes: source, key, value, expectation -----------------------------------------------------------------------

BAD_VALUES = [
    ("server", "listen", '"tcp:1"', "a list of endpoints"),
    ("server", "listen", "[]", "at least one endpoint"),
    ("server", "listen", '["tcp:1:interface=127.0.0.1", "tcp:1:interface=127.0.0.1"]', "each endpoint once"),
    ("server", "listen", '["tcp:70000"]', "a port is a number from 0 to 65535"),
    ("server", "listen", '["tcp"]', "endpoint"),
    ("server", "listen", '["smoke:80"]', "Unknown endpoint type"),
    ("server", "listen", '["ssl:443:privateKey=missing.pem"]', "endpoint"),
    ("server", "listen", '["tcp:80:\\\\"]', "endpoint"),
    ("server", "state_dir", '""', "a directory"),
    ("server", "state_dir", '"a\\nb"', "a directory"),
    ("server", "websocket_path", '"ws"', "a path"),
    ("server", "websocket_path", '"/api/ws"', "does not use itself"),
    ("server", "page", '"yes"', "true or false"),
    ("server", "page", "1", "true or false"),
    ("server", "allowed_origins", '["example.com"]', "an origin"),
    ("server", "allowed_origins", '["https://example.com/path"]', "an origin"),
    ("server", "max_connections", '"many"', "a whole number from 1"),
    ("server", "max_connections", "true", "a whole number from 1"),
    ("server", "max_connections", "1.0", "a whole number from 1"),
    ("server", "max_connections", "0", "a whole number from 1"),
    ("server", "max_connections", "99999999999", "to 2147483647"),
    ("server", "trusted_proxies", '["10.0.0.1/8"]', "host bits"),
    ("server", "shutdown_drain", "10", "a duration"),
    ("server", "shutdown_drain", '"10"', "a duration"),
    ("server", "shutdown_drain", '"-1s"', "a duration"),
    ("server", "shutdown_drain", '"0.0001s"', "a duration"),
    ("server", "shutdown_drain", '"99999999999d"', "a duration"),
    ("server", "node_name", '"a b"', "letters, digits"),
    ("auth", "algorithms", '["none"]', "HS256"),
    ("auth", "algorithms", '["RS256"]', "a public key that fits"),
    ("auth", "secret_file", '"missing"', "a readable file: No such file or directory"),
    ("auth", "public_key_file", '"missing"', "a readable file"),
    ("auth", "jwks_url", '"file:///etc/passwd"', "an http:// or https:// address"),
    ("auth", "user_claim", '""', "the name of a claim"),
    ("auth", "timeout", '"0s"', "at least 1ms"),
    ("delivery", "slow_consumer", '"drop"', '"drop_oldest"'),
    ("engine", "kind", '"kafka"', '"embedded", "redis"'),
    ("redis", "url", '"http://127.0.0.1"', "a redis://, rediss:// or unix:// address"),
    ("redis", "url", '"redis://h:99999/0"', "a redis://"),
    ("redis", "url", '"redis://h:1/zero"', "the number of the database"),
    ("redis", "url", '"unix:relative"', "unix:///"),
    ("redis", "url", "5", "a redis://"),
    ("redis", "prefix", '"a b"', "letters, digits"),
    ("redis", "sentinels", '["h:1"]', "redis.service"),
    ("redis", "sentinels", '["h"]', '"host:port"'),
    ("redis", "service", '"m"', "redis.sentinels"),
    ("tasks", "min_delta", "nan", "a number from 0 to 100"),
    ("tasks", "min_delta", '"1"', "a number from 0 to 100"),
    ("rate_limits", "messages_per_second", "-1", "a number from 0"),
    ("api", "keys", '[{scopes = ["read"]}]', 'a table has the key "key"'),
    ("api", "keys", '["fifteen-letters"]', "a key is 16 to 512"),
    ("api", "keys", '[{key = "sixteen-letters-", scopes = ["all"]}]', "scopes are some of"),
    ("api", "keys", '[{key = "sixteen-letters-", channels = []}]', "channels are globs"),
    ("api", "keys", '[{key = "sixteen-letters-", channels = ["a b"]}]', "channels are globs"),
    ("api", "keys", '[{key = "sixteen-letters-", channels = "a:*"}]', "channels are globs"),
    ("api", "keys", '[{key = "sixteen-letters-", name = "a b"}]', "a name is up to 100"),
    ("api", "keys", '["a b"]', "visible ASCII"),
    ("api", "keys", '["a-key-that-comes-twice", "a-key-that-comes-twice"]', "each key once"),
    ("manhole", "listen", '"8022"', "endpoint"),
    ("manhole", "authorized_keys", '"missing"', "a readable file"),
    ("roles", "editor", '["write"]', "a list of permissions"),
    ("roles", "editor", '"admin"', "a list of permissions"),
]


@pytest.mark.parametrize(("section", "key", "value", "expected"), BAD_VALUES)
def test_a_bad_value(write: Write, section: str, key: str, value: str, expected: str) -> None:
    path = write(f"[{section}]\n{key} = {value}\n")
    line = mistake(path, dev=True)
    assert line.startswith(f"{path}: {section}.{key} = ")
    assert "expected " in line
    assert expected in line
    if section != "api":
        assert json.dumps(tomllib.loads(f"value = {value}")["value"])[:100] in line or "/missing" in line


BAD_NAMESPACES = [
    ('name = "a:b"', '"a:b"].name', "without"),
    ('name = "a*"', '"a*"].name', "without"),
    ("name = 5", "namespaces[5].name", "without"),
    ('subscribe = "anyone"', "namespaces[1]", "expected the key name"),
    ('name = "a"\nsubscribe = "all"', '"a"].subscribe = "all"', '"anyone"'),
    ('name = "a"\nhistroy_size = 1', "histroy_size: unknown key, did you mean history_size?", ""),
    ('name = "a"\nhistory_size = -1', '"a"].history_size = -1', "whole number from 0"),
    ('name = "a"\n[[namespaces]]\nname = "a"', 'namespaces["a"]', "one entry for each name"),
]


@pytest.mark.parametrize(("entry", "where", "expected"), BAD_NAMESPACES)
def test_a_bad_namespace(write: Write, entry: str, where: str, expected: str) -> None:
    line = mistake(write(f"[[namespaces]]\n{entry}\n"), dev=True)
    assert where in line
    assert expected in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[server]\nmax_conections = 1\n", "server.max_conections: unknown key, did you mean max_connections?"),
        ("[server]\nprefix = 'x'\n", "server.prefix: unknown key, did you mean redis.prefix?"),
        ("[server]\nzzz = 1\n", "server.zzz: unknown key, expected one of listen, state_dir"),
        ("[sever]\n", "sever: unknown section, did you mean server?"),
        ("listen = []\n", "listen: unknown key, did you mean server.listen?"),
        ("server = 5\n", "server = 5: expected a table, [server]"),
        ("roles = 5\n", "roles = 5: expected a table"),
        ("namespaces = 5\n", "namespaces = 5: expected a list of tables"),
        ("namespaces = [5]\n", "namespaces = [5]: expected a list of tables"),
        ("[server]\nlisten = [\n", "line 2: "),
        ("[server]\nlisten = x\n", "line 2, column 10: "),
        ("[server]\npage = true\npage = true\n", "line 3, column "),
        ("x = " + "9" * 5000, "expected TOML with reasonable numbers"),
        ("[server]\n'a b\\u0000' = 1\n", "unknown key"),
    ],
)
def test_a_mistake_in_the_file(write: Write, text: str, expected: str) -> None:
    path = write(text)
    line = mistake(path, dev=True)
    assert line.startswith(f"{path}: ")
    assert expected in line


def test_what_a_library_quotes_of_a_file_moves_no_cursor(write: Write) -> None:
    said = mistake(write('[server]\nlisten = ["smoke\\b\\u001b[2J:80"]'))
    assert "Unknown endpoint type: 'smoke??[2j'" in said
    assert said.isprintable()


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.toml")
    assert mistake(missing) == f"{missing}: cannot be read: No such file or directory"
    assert mistake(str(tmp_path)) == f"{tmp_path}: cannot be read: Is a directory"
    (tmp_path / "latin").write_bytes(b"# one\n# caf\xe9\n")
    assert mistake(str(tmp_path / "latin")) == f"{tmp_path}/latin: line 2: expected UTF-8 text"


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("PUSHSERVER_SERVER__MAX_CONNECTIONS", "many", 'server.max_connections = "many": expected a whole number'),
        ("PUSHSERVER_SERVER__PAGE", "perhaps", 'server.page = "perhaps": expected true or false'),
        ("PUSHSERVER_TASKS__MIN_DELTA", "inf", "tasks.min_delta = "),
        ("PUSHSERVER_TASKS__MIN_DELTA", "x", 'tasks.min_delta = "x": expected a number'),
        ("PUSHSERVER_SERVER__LISTEN", "tcp:80", 'server.listen = "tcp:80": expected a list of endpoints (as JSON)'),
        ("PUSHSERVER_SERVER__LISTEM", "[]", "server.listem: unknown key, did you mean listen?"),
        ("PUSHSERVER_SEVER__LISTEN", "[]", "sever: unknown section, did you mean server?"),
        ("PUSHSERVER_ROLES__EDITOR", "admin", 'roles.editor = "admin": expected JSON'),
        ("PUSHSERVER_NAMESPACES", "{}", "namespaces = {}: expected a list of tables"),
    ],
)
def test_a_mistake_in_the_environment(variable: str, value: str, expected: str) -> None:
    line = mistake(None, {variable: value}, dev=True)
    assert line.startswith(f"environment {variable}: ")
    assert expected in line


def test_a_mistake_on_the_command_line() -> None:
    assert mistake(None, {}, {"redis.url": "x"}, dev=True).startswith(
        'option --redis: redis.url = "x": expected a redis'
    )


# -- rules between keys ----------------------------------------------------------------------------------------------


def test_without_a_key_the_server_refuses() -> None:
    assert "auth.jwks_url" in mistake()


@pytest.mark.parametrize(("count", "kind"), [(0, "redis"), (2, "embedded")])
def test_workers(count: int, kind: str) -> None:
    assert f"workers = {count}" in mistake(overrides={"engine.kind": kind}, workers=count, dev=True)


def test_many_workers_on_redis() -> None:
    assert load(overrides={"engine.kind": "redis"}, workers=4, dev=True).engine.kind == "redis"


def test_a_short_secret_is_refused_and_not_shown(write: Write) -> None:
    line = mistake(write('[auth]\nsecret = "too-short"\n'))
    assert "auth.secret = (hidden): expected at least 32 bytes, there are 9" in line


def test_a_short_secret_file(tmp_path: Path, write: Write) -> None:
    (tmp_path / "secret").write_text("x" * 31 + "\n")
    line = mistake(write(f'[auth]\nsecret_file = "{tmp_path}/secret"\n'))
    assert f'auth.secret_file = "{tmp_path}/secret": expected at least 32 bytes, there are 31' in line


def test_the_secret_of_a_file_is_without_its_line_end(tmp_path: Path, write: Write) -> None:
    (tmp_path / "secret").write_bytes(b"\xff" * 32 + b"\r\n")
    auth = load(write(f'[auth]\nsecret_file = "{tmp_path}/secret"\n')).auth
    assert auth.hmac_secrets() == (b"\xff" * 32,)
    assert auth.keys().algorithms == {"HS256"}


def test_all_secrets_verify_and_the_first_one_signs(tmp_path: Path, write: Write) -> None:
    for number in (1, 2, 3):
        (tmp_path / f"s{number}").write_text(f"{number}" * 40 + "\n")
    path = write(
        f'[auth]\nsecret_files = ["{tmp_path}/s2", "{tmp_path}/s3"]\nsecrets = ["{"b" * 40}"]\n'
        f'secret_file = "{tmp_path}/s1"\nsecret = "{"a" * 40}"\n'
    )
    auth = load(path).auth
    assert auth.hmac_secrets() == (b"a" * 40, b"1" * 40, b"b" * 40, b"2" * 40, b"3" * 40)
    assert len(auth.keys().candidates("HS256", None)) == 5
    # What was read when the configuration was checked counts, whatever is written meanwhile.
    (tmp_path / "s3").write_text("other" * 10)
    assert auth.hmac_secrets()[-1] == b"3" * 40


@pytest.mark.parametrize(("key", "others"), [("secrets", f'"{SECRET}"'), ("secret_files", '"FOLDER/long"')])
def test_each_secret_of_a_list_is_long_enough(key: str, others: str, tmp_path: Path, write: Write) -> None:
    (tmp_path / "long").write_text(SECRET)
    (tmp_path / "short").write_text("short-one")
    bad = '"short-one"' if key == "secrets" else f'"{tmp_path}/short"'
    line = mistake(write(f"[auth]\n{key} = [{others.replace('FOLDER', str(tmp_path))}, {bad}]\n"))
    assert f"auth.{key} = " in line
    assert "expected at least 32 bytes, there are 9" in line
    assert "short-one" not in line


def test_a_secret_file_of_a_list_that_is_missing(tmp_path: Path, write: Write) -> None:
    line = mistake(write(f'[auth]\nsecret_files = ["{tmp_path}/none"]\n'))
    assert f'auth.secret_files = "{tmp_path}/none": expected a readable file: No such file' in line


KEYS: dict[str, tuple[Callable[[], Any], str]] = {
    "rsa": (lambda: rsa.generate_private_key(65537, 2048), "RS256"),
    "p256": (lambda: ec.generate_private_key(ec.SECP256R1()), "ES256"),
    "ed25519": (ed25519.Ed25519PrivateKey.generate, "EdDSA"),
}


def key_file(path: Path, private: Any) -> str:
    path.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return f'[auth]\npublic_key_file = "{path}"\n'


@pytest.mark.parametrize("kind", KEYS)
def test_a_public_key_goes_with_its_algorithms(kind: str, tmp_path: Path, write: Write) -> None:
    make, algorithm = KEYS[kind]
    text = key_file(tmp_path / "key.pem", make())
    assert algorithm in load(write(text)).auth.keys().algorithms
    assert load(write(text + f'algorithms = ["{algorithm}"]')).auth.algorithms == (algorithm,)
    assert "expected a public key that fits" in mistake(write(text + 'algorithms = ["ES384", "RS256"]'))
    assert "beside HS256" in mistake(write(text + 'algorithms = ["HS256"]'))


def test_weak_and_broken_keys(tmp_path: Path, write: Write) -> None:
    weak = write(key_file(tmp_path / "key.pem", rsa.generate_private_key(65537, 1024)))
    assert f'auth.public_key_file = "{tmp_path}/key.pem": expected a usable key: an RSA key needs' in mistake(weak)
    (tmp_path / "key.pem").write_text("no key")
    assert "auth.public_key_file" in mistake(weak)
    key_file(tmp_path / "key.pem", ed25519.Ed25519PrivateKey.generate())
    pem_as_secret = write(f'[auth]\nsecret_file = "{tmp_path}/key.pem"\n')
    assert "auth.secret_file" in mistake(pem_as_secret)


def test_every_key_needs_an_algorithm(tmp_path: Path, write: Write) -> None:
    public = key_file(tmp_path / "key.pem", ed25519.Ed25519PrivateKey.generate())
    both = public + f'secret = "{SECRET}"\n'
    assert load(write(both)).auth.keys().algorithms == {"HS256", "EdDSA"}
    assert "an HS algorithm beside the secret" in mistake(write(both + 'algorithms = ["EdDSA"]'))
    assert "beside the public key" in mistake(write(both + 'algorithms = ["HS256"]'))
    assert "a secret that is long enough beside HS512" in mistake(write(both + 'algorithms = ["HS512", "EdDSA"]'))


def test_a_key_set_goes_with_public_algorithms(write: Write) -> None:
    text = '[auth]\njwks_url = "https://id.example.com/jwks"\n'
    assert load(write(text + 'algorithms = ["RS256", "ES256", "EdDSA"]')).auth.verifies
    assert "a secret that is long enough beside HS256" in mistake(write(text + 'algorithms = ["RS256", "HS256"]'))


def test_the_console_needs_a_way_in(tmp_path: Path, write: Write) -> None:
    console = f'[auth]\nsecret = "{SECRET}"\n[manhole]\nlisten = "tcp:8022:interface=127.0.0.1"\n'
    assert "manhole.authorized_keys or manhole.password_file" in mistake(write(console))
    (tmp_path / "password").touch()
    console += f'password_file = "{tmp_path}/password"\n'
    assert "not empty" in mistake(write(console))
    (tmp_path / "password").write_text("word\n")
    assert load(write(console)).manhole.password_file == f"{tmp_path}/password"


@pytest.mark.parametrize(
    "endpoint",
    ["tcp:8080", "tcp:8080:interface=0.0.0.0", "tcp6:80:interface=\\:\\:", "systemd:domain=INET:index=0",
     "haproxy:tcp:80", "tcp:80:interface=example.com"],
)  # fmt: skip
def test_development_mode_is_for_loopback_alone(endpoint: str) -> None:
    line = mistake(overrides={"server.listen": [endpoint]}, dev=True)
    assert line.startswith("option --listen: server.listen = ")
    assert "loopback" in line


@pytest.mark.parametrize(
    ("pattern", "taken"),
    [("{id}", "task"), ("{id}@here", "task"), ("n{id}", "news"), ("news:{id}", "news"), ("s{id}", "system"),
     ("chat:in-{id}", "chat")],
)  # fmt: skip
def test_nothing_else_is_called_as_an_inbox_is(write: Write, pattern: str, taken: str) -> None:
    named = f'[auth]\nsecret = "{SECRET}"\n[[namespaces]]\nname = "news"\n[centrifuge]\ninbox_channel = '
    line = mistake(write(f"{named}'{pattern}'\nenabled = true\n"))
    assert "centrifuge.inbox_channel" in line
    assert f'"{taken}"' in line
    assert load(write(f"{named}'{pattern}'\n")).centrifuge.inbox_channel == pattern
    for other in ("user:{id}", "#{id}", "new-{id}", "in:{id}"):
        assert load(write(f"{named}'{other}'\nenabled = true\n")).centrifuge.inbox_channel == other


def test_an_insecure_server_is_for_loopback_alone() -> None:
    insecure = {"auth.secret": SECRET, "centrifuge.enabled": True, "centrifuge.insecure": True}
    listen = {"server.listen": ["tcp:8080:interface=127.0.0.1"]}
    assert "centrifuge.insecure" in mistake(overrides=insecure | {"server.listen": ["tcp:8080"]})
    assert "centrifuge.insecure" in mistake(overrides=insecure | listen | {"server.api_listen": ["tcp:8081"]})
    config = load(overrides=insecure | listen)
    assert config.auth.anonymous
    # Without the door it is as if it were not there.
    assert not load(overrides=insecure | {"centrifuge.enabled": False, "server.listen": ["tcp:8080"]}).auth.anonymous


def test_an_insecure_server_opens_what_is_configured(write: Write) -> None:
    names = '[[namespaces]]\nname = "news"\n[[namespaces]]\nname = "chat"\n[[namespaces]]\nname = "public"\n'
    door = f'[auth]\nsecret = "{SECRET}"\n[centrifuge]\nenabled = true\n'
    listen = '[server]\nlisten = ["tcp:8080:interface=127.0.0.1"]\n'

    def opened(text: str) -> list[str]:
        return [name for name, one in namespaces(load(write(text))).all.items() if one.open]

    assert opened(f"{door}{listen}{names}") == []
    assert sorted(opened(f"{door}insecure = true\n{listen}{names}")) == ["news", "public"]


def test_the_console_of_development_mode_too() -> None:
    assert "option --manhole: manhole.listen" in mistake(overrides={"manhole.listen": "tcp:8022"}, dev=True)


@pytest.mark.parametrize(
    "endpoint",
    ["tcp:8080:interface=127.0.0.1", "tcp:port=8080:interface=localhost", "tcp6:80:interface=\\:\\:1",
     "unix:/tmp/push.sock", "haproxy:tcp:80:interface=127.0.0.9"],
)  # fmt: skip
def test_loopback_endpoints(endpoint: str) -> None:
    assert load(overrides={"server.listen": [endpoint]}, dev=True).server.listen == (endpoint,)


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://h:6380",
        "rediss://user:p%40ss@h:1/15",
        "rediss://h/0?ca=/etc/ca.pem",
        "redis://:p@[::1]:6379/0",
        "unix:///r.sock?db=3",
    ],
)
def test_redis_addresses(url: str) -> None:
    assert load(overrides={"redis.url": url}, dev=True).redis.url == url


# -- secrets ---------------------------------------------------------------------------------------------------------


def test_secrets_are_in_no_repr(write: Write) -> None:
    loaded = load(
        write(
            f'[auth]\nsecret = "{SECRET}"\n[api]\nkeys = ["api-key-that-is-hidden"]\n[redis]\nurl = "redis://me:pass-word@h/0"\n'
        )
    )
    for shown in (repr(loaded), str(loaded.auth), repr(loaded.api.keys), repr(list(loaded.redis.__rich_repr__()))):
        assert not re.search(f"{SECRET}|api-key-that-is-hidden|pass-word", shown)
    assert "redis://***@h/0" in repr(loaded)


@pytest.mark.parametrize(
    "text",
    [
        f'[auth]\nsecret = ["{SECRET}"]\n',
        f'[auth]\nsecrets = "{SECRET}"\n',
        f'[api]\nkeys = "{SECRET}"\n',
        f'[api]\nkeys = ["{SECRET}", "{SECRET}"]\n',
        f'[api]\nkeys = [{{key = "{SECRET}", scope = []}}]\n',
        f'[redis]\nurl = "http://me:{SECRET}@h/0"\n',
    ],
)
def test_secrets_are_in_no_error(write: Write, text: str) -> None:
    assert SECRET not in mistake(write(text), dev=True)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "x", "10s", "a\nb", "\x7f"])
NAMES = st.sampled_from(["listen", "keys", "key", "scopes", "url", "name", "secret", "x", "a b", ""])
VALUES = (
    LEAVES | st.lists(LEAVES, max_size=2) | st.dictionaries(NAMES, LEAVES | st.lists(LEAVES, max_size=2), max_size=2)
)


@given(
    st.sampled_from([*SECTIONS, "roles", "namespaces", "x", ""]), VALUES | st.dictionaries(NAMES, VALUES, max_size=2)
)
def test_whatever_a_file_holds_the_answer_is_a_configuration_or_one_line(name: str, table: Any) -> None:
    raw = RawConfig()
    try:
        raw.add_table("push.toml", name, table)
        said = ""
    except ConfigError as problem:
        said = str(problem)
    assert "\n" not in said
    assert len(said) < 1000
