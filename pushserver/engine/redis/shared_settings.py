"""What other nodes are configured with: said where it differs, and never cut short by a narrower limit of this one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from twisted.logger import Logger

from pushserver.engine.interfaces import Retention

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


class SharedSettings:
    """This node's settings, and those of the other live nodes as they said them last."""

    _log = Logger()

    def __init__(
        self,
        own: Callable[[], Mapping[str, Any]],  # Any: JSON values
    ) -> None:
        """``own``: what this node is configured with now, by full key, as JSON values."""
        self._own = own
        self._others: dict[str, dict[str, Any]] = {}
        self._logged: dict[str, list[str]] = {}

    def encoded(self) -> bytes:
        """Return this node's settings as others read them."""
        return msgspec.json.encode(self._own(), order="sorted")

    def note(self, others: Iterable[tuple[str, bytes]], beside: bool = False) -> None:
        """Take the names of the other nodes that nobody has expired, and what each said; nothing of version 1.
        ``beside``: what others said before counts as well."""
        self._others = dict(self._others) if beside else {}
        for name, text in others:
            if not text:
                continue
            try:
                self._others[name] = _decode(text)
            except ValueError:
                self._others[name] = {"settings": None}
        self._log_changes()

    def differences(self) -> dict[str, list[str]]:
        """As `interfaces.IEngine.differences`."""
        own = msgspec.json.decode(self.encoded())
        found = {
            name: sorted(key for key in own.keys() | settings.keys() if own.get(key) != settings.get(key))
            for name, settings in self._others.items()
        }
        return {name: keys for name, keys in sorted(found.items()) if keys}

    def _log_changes(self) -> None:
        found = self.differences()
        for name, keys in found.items():
            if self._logged.get(name) != keys:
                text = "node {name} has other settings than this one: {keys}; the wider limits hold meanwhile"
                self._log.warn(text, name=name, keys=", ".join(keys))
        for name in self._logged.keys() - found.keys():
            self._log.info("node {name} has the settings of this one now, or is gone", name=name)
        self._logged = found

    # -- limits -------------------------------------------------------------------------------------------------------

    def widest(self, key: str, own: int) -> int:
        """Return a limit of this node, or of another live one where that is wider."""
        if not self._others:
            return own
        others = (settings.get(key) for settings in self._others.values())
        return max([own, *(each for each in others if type(each) is int and each < 2**53)])

    def retention(self, channel: str, own: Retention) -> Retention:
        """Return what a channel keeps."""
        if not self._others:
            return own
        namespace = f"namespaces.{channel.partition(':')[0] if ':' in channel or channel == 'system' else ''}"
        return Retention(
            self.widest(f"{namespace}.history_size", own.size), self.widest(f"{namespace}.history_ttl", own.ttl)
        )
