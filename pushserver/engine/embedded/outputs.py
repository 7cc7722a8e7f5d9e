"""`IOutputs`: what tasks write while they work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zope.interface import implementer

from pushserver.engine.interfaces import IOutputs

from .operations import AppendOutput, ReadOutput

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from pushserver.core.output import NewOutput, Producer
    from pushserver.core.positions import Position
    from pushserver.engine.interfaces import IdempotencyKey, OutputPage, OutputRules, OutputTaken

    from .writer import Writer


@implementer(IOutputs)
class EmbeddedOutputs:
    """Outputs in the store."""

    def __init__(self, writer: Writer, rules: OutputRules) -> None:
        self._writer = writer
        self.rules = rules

    def append(
        self,
        task_id: str,
        new: NewOutput,
        producer: Producer | None,
        attempt: int | None,
        once: IdempotencyKey | None,
    ) -> Deferred[OutputTaken]:
        return self._writer.submit(AppendOutput(task_id, new, producer, attempt, once))

    def read(self, task_id: str, name: str, since: Position | None, max_bytes: int) -> Deferred[OutputPage]:
        return self._writer.submit(ReadOutput(task_id, name, since, max_bytes))
