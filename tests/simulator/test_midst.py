"""Faults in the midst of an entry, where what they are about is over when they come."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hiredis
from twisted.internet.testing import StringTransport

from pushserver.engine.redis.scripts import load
from tests.simulator.plan import Step, make
from tests.simulator.redis.server import ModelRedis
from tests.simulator.run import Run


def test_an_entry_of_a_node_that_has_ended_since_kills_nobody(tmp_path: Path) -> None:
    run = Run(make(1, 0, 0), tmp_path)
    run._kill_ingest(Step(1.0, "kill_ingest"), 0.001, 0.5)
    gone: Any = SimpleNamespace(transport=SimpleNamespace(peer=SimpleNamespace(process=object())))
    run._entry_begun(gone)
    here: Any = SimpleNamespace(transport=SimpleNamespace(peer=SimpleNamespace(process=run.nodes[0].process)))
    killed: list[str] = []
    run._kill = lambda step, node, seconds: killed.append(node)  # type: ignore[method-assign]
    run._entry_begun(here)
    run.world.run(1.0)
    assert killed == ["n1"]


def test_a_write_that_was_late_is_carried_out_when_it_arrives_also_where_the_next_one_is_to_be_late() -> None:
    redis = ModelRedis(lambda: 1, lambda *_: None, random.Random(1))
    late: list[bytes] = []
    redis.is_late = lambda session, lease: late.append(lease) is None
    session = redis.buildProtocol(None)
    session.makeConnection(StringTransport())
    script = load()["publish"]
    redis.scripts.load(script.text.encode())
    keys = [b"server", b"once", b"lease", b"history", b"messages", b"events", b"outbox"]
    arguments = [b"", b"1000", b"0", b"1000", b"a token", *[b""] * 12]
    session.dataReceived(hiredis.pack_command((b"EVALSHA", script.digest, len(keys), *keys, *arguments)))
    assert (late, session.transport.value()) == ([b"lease"], b"")
    session.deliver_late()
    assert late == [b"lease"]
    assert session.transport.value() != b""
