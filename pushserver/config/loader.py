"""Where the configuration comes from: a file, the environment, the command line, and which of them said what.

A `RawConfig` takes them in the order of their weight, the lightest first, and remembers the source of every value, so
that a mistake that shows only later (`pushserver.config.checks`) can still name it.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from pushserver.config.sections import NAMESPACE, ROLE, SECTIONS, keys_of
from pushserver.config.values import InvalidValue, Setting, one_line, shown
from pushserver.core.channels import Namespace, configured
from pushserver.core.errors import ConfigError

ENVIRONMENT_PREFIX: Final = "PUSHSERVER_"


class RawConfig:
    """What the sources said so far: by full key, the value as read and where it comes from."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
        self.sources: dict[str, str] = {}
        self.roles: dict[str, tuple[str, ...]] = {}
        self.namespaces: list[Namespace] = []

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
            self.add_table(path, name, table)

    def add_table(self, source: str, name: str, table: object) -> None:
        """One top-level table of a file, or what stands for it; values are as TOML has them."""
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
                self.add_table(source, name.lower(), _from_json(source, name.lower(), value))
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
            self.roles[role] = _read(source, f"roles.{role}", ROLE, permissions)

    def _add_namespaces(self, source: str, entries: object) -> None:
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ConfigError(f"{source}: namespaces = {shown(entries)}: expected a list of tables, [[namespaces]]")
        self.namespaces = []
        for position, entry in enumerate(entries, start=1):
            label = f"namespaces[{shown(entry['name'])}]" if "name" in entry else f"namespaces[{position}]"
            if "name" not in entry:
                raise ConfigError(f"{source}: {label}: expected the key name")
            values = {}
            for key, value in entry.items():
                if key not in NAMESPACE:
                    raise ConfigError(f"{source}: {label}.{_word(key)}: unknown key{_nearest(key, NAMESPACE)}")
                values[key] = _read(source, f"{label}.{key}", NAMESPACE[key], value)
            if any(values["name"] == other.name for other in self.namespaces):
                raise ConfigError(f"{source}: {label}: expected one entry for each name, this is the second")
            self.namespaces.append(configured(**values))


def _read(source: str, full_key: str, setting: Setting, value: object, is_text: bool = False) -> Any:
    try:
        return setting.read(setting.from_text(value) if is_text and isinstance(value, str) else value)
    except InvalidValue as problem:
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
        return f"line {max(1, len(Path(path).read_text(encoding='utf-8').splitlines()))}: {one_line(problem)}"
    return f"line {match[2]}, column {match[3]}: {one_line(match[1])}"


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
