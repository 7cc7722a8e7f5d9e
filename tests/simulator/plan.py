"""What happens in a run: settings, devices, and steps at moments, all chosen by a seed.

A plan is data: a step can be left out, and the others stay what they are (`shrink`). What a step leaves to chance at
its time, chance decides then.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, field, replace
from typing import Any

#: The faults of nodes on Redis, each with how likely it is.
FAULTS: dict[str, int] = {
    "kill": 4,
    "stop": 2,
    "hold": 2,
    "cut_redis": 4,
    "cut_pubsub": 4,
    "delay_pubsub": 3,
    "lose_replies": 4,
    "part": 2,
    "redis_restart": 3,
    "redis_down": 2,
    "redis_hold": 2,
    "redis_full": 1,
    "redis_lost": 2,
    "redis_flush": 1,
    "kill_ingest": 1,
    "late_write": 1,
    "drop_device": 3,
    "slow_device": 1,
}
#: The faults of a node with a store of its own.
EMBEDDED_FAULTS: dict[str, int] = {
    "kill": 6,
    "stop": 2,
    "hold": 1,
    "disk_full": 3,
    "disk_slow": 2,
    "drop_device": 2,
    "slow_device": 1,
}
#: What comes besides in some runs (`RARELY`), which then are full of it: data that goes back inside a process that goes
#: on, clocks that are set, limits that differ.
RARE_FAULTS: dict[str, int] = {"redis_rollback": 12, "step_node": 14, "step_redis": 4, "narrow": 12}
RARE_EMBEDDED_FAULTS: dict[str, int] = {"disk_older": 8, "step_node": 14}
#: What comes besides where Redis may evict, and in some of these runs, too.
EVICTING_FAULTS: dict[str, int] = {"evict_presence": 4}
RARE_EVICTING_FAULTS: dict[str, int] = {"evict": 8}
#: What comes besides where sentinels watch over a master and its replica, and where a replica may be behind.
SENTINEL_FAULTS: dict[str, int] = {"failover": 4, "failover_back": 4}
LAGGING_FAULTS: dict[str, int] = {"failover_lost": 4}
#: In how many runs there are rare faults, too.
RARELY = 0.3

#: Operations, each with how often it is chosen.
OPERATIONS: dict[str, int] = {
    "notify": 10,
    "publish": 8,
    "task": 3,
    "ingest": 4,
    "chat": 2,
    "direct": 2,
    "collapse": 1,
    "mark": 2,
    "delete": 1,
    "list": 1,
    "burst": 1,
    "resubscribe": 1,
    "leave": 1,
    "come": 1,
    "read": 1,
    "rush": 2,
    "away": 2,
}
#: How often an operation is asked around the beginning of a fault, when mistakes show; and from how many seconds before
#: it to how many after it.
AROUND_FAULTS = 0.4
BEFORE, AFTER = 0.3, 1.0
#: How often the machine of a Redis whose data goes back is a node's, too.
ONE_MACHINE = 0.4

USERS = ("ann", "bob", "cy")
NEWS = ("news:a", "news:b")
ORDERS = "orders:main"
ROOM = "chat:lobby"
#: Where sentinels are, and what they call the master.
SENTINELS = ("10.0.5.1", "10.0.5.2", "10.0.5.3")
SENTINEL_PORT = 26379
SERVICE = "main"
#: Who watches the status of the others, and does nothing else.
WATCHER = "eve"


@dataclass(frozen=True)
class Step:
    """Something that is done at a moment, s."""

    at: float
    do: str
    with_: dict[str, Any] = field(default_factory=dict)
    fault: bool = False

    def __str__(self) -> str:
        words = " ".join(f"{name}={value}" for name, value in sorted(self.with_.items()))
        return f"{self.at:8.3f} s  {'! ' if self.fault else '  '}{self.do} {words}".rstrip()


@dataclass(frozen=True)
class Plan:
    """A run.

    Attributes:
        devices: what each is made of (`devices.Device`); one with ``stream`` reads server-sent events, one with ``sdk``
            speaks the Centrifuge protocol.
        seconds: how long there are operations and faults; then all is mended, and time passes until it is judged.
        strict: rules that are judged although a fault could excuse what breaks them.
    """

    seed: int
    nodes: int
    seconds: float
    settings: dict[str, dict[str, Any]]
    devices: tuple[dict[str, Any], ...]
    steps: tuple[Step, ...]
    policy: str = "noeviction"
    strict: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the plan as JSON, for `from_text`."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @staticmethod
    def from_text(text: str) -> Plan:
        fields = json.loads(text)
        steps = tuple(Step(**step) for step in fields.pop("steps"))
        return Plan(**fields | {"devices": tuple(fields["devices"])}, steps=steps)

    def keeping(self, kept: frozenset[int]) -> Plan:
        """Return the plan with these of its steps alone, by their numbers from 0."""
        steps = tuple(step for number, step in enumerate(self.steps) if number in kept)
        return replace(self, steps=steps)


def make(
    seed: int,
    operations: int = 60,
    faults: int = 4,
    outputs: bool = False,
    sdks: bool = False,
) -> Plan:
    """Return a seed's plan. ``outputs``: with tasks that write, beside what the seed has without them; ``sdks``: some
    of its devices speak the Centrifuge protocol."""
    chance = random.Random(f"plan {seed}")
    embedded = chance.random() < 0.25
    nodes = 1 if embedded else chance.choice((2, 2, 3))
    seconds = max(6.0, operations / chance.choice((5, 10)))
    kinds = EMBEDDED_FAULTS if embedded else FAULTS
    rare = random.Random(f"rare {seed}").random() < RARELY
    if rare:
        kinds = kinds | (RARE_EMBEDDED_FAULTS if embedded else RARE_FAULTS)
    wanted = {name: weight for name, weight in OPERATIONS.items() if not (embedded and name == "ingest")}
    settings: dict[str, dict[str, Any]] = {
        "engine": {"kind": "embedded" if embedded else "redis", "position_check": chance.choice(("2s", "10s"))},
        "redis": {"command_timeout": chance.choice(("1s", "3s")), "connect_timeout": "2s"},
        "inbox": {
            "max_messages": chance.choice((3, 8, 100, 100)),
            "max_chat_messages": chance.choice((3, 20)),
            "max_task_messages": chance.choice((2, 50)),
        },
        "tasks": {"min_interval": chance.choice(("200ms", "1s"))},
    }
    evicts = not embedded and chance.random() < 0.2
    if evicts:
        kinds = kinds | EVICTING_FAULTS | (RARE_EVICTING_FAULTS if rare else {})
        settings["redis"]["allow_eviction"] = True
    if not embedded and chance.random() < 0.25:
        replicas = chance.choice((0, 1))
        addresses = [f"{host}:{SENTINEL_PORT}" for host in SENTINELS]
        settings["redis"] |= {"sentinels": addresses, "service": SERVICE, "wait_replicas": replicas}
        # Where an answer waits for the replica, that has all that was answered.
        kinds = kinds | SENTINEL_FAULTS | ({} if replicas else LAGGING_FAULTS)
    steps = [_fault(chance, kinds, nodes, seconds) for _ in range(faults)]
    moments = [step.at for step in steps]
    steps += [_operation(chance, wanted, number, _moment(chance, moments, seconds)) for number in range(operations)]
    if outputs:
        own = random.Random(f"outputs {seed}")
        settings["tasks"]["output_max_bytes"] = own.choice((1024, 4096, 4096))
        steps += [_output(own, number, seconds) for number in range(3)]
    steps.sort(key=lambda step: step.at)
    devices = _devices(chance)
    if sdks:
        settings |= {"centrifuge": {"enabled": True}, "heartbeat": {"interval": "2s", "timeout": "8s"}}
        _give_sdks(random.Random(f"sdks {seed}"), devices)
    return Plan(
        seed,
        nodes,
        seconds,
        settings,
        tuple(devices),
        tuple(steps),
        "allkeys-lru" if evicts else "noeviction",
    )


def fault(chance: random.Random, name: str, plan: Plan) -> Step:
    """Return a fault of this name for a plan, at some moment."""
    return _fault(chance, {name: 1}, plan.nodes, plan.seconds)


def _devices(chance: random.Random) -> list[dict[str, Any]]:
    devices: list[dict[str, Any]] = []
    for user in USERS:
        follows = [chance.choice(NEWS), ROOM]
        stream = chance.random() < 0.15
        devices.append(
            {
                "name": f"{user}-phone",
                "user": user,
                "acks": True,
                "positions": stream or chance.random() < 0.3,
                "channels": follows,
                "stream": stream,
            }
        )
        if user != USERS[-1]:
            channels = [*NEWS, ORDERS] if chance.random() < 0.7 else [ORDERS]
            devices.append(
                {
                    "name": f"{user}-laptop",
                    "user": user,
                    "acks": False,
                    "positions": True,
                    "channels": channels,
                    "stream": chance.random() < 0.4,
                }
            )
    statuses = [f"status:{user}" for user in USERS]
    devices.append(
        {"name": f"{WATCHER}-wall", "user": WATCHER, "acks": False, "positions": False, "channels": [*statuses, ORDERS]}
    )
    return devices


def _give_sdks(chance: random.Random, devices: list[dict[str, Any]]) -> None:
    """Let some devices have an SDK: those that acknowledge, since an SDK does, and who watches."""
    fitting = [device for device in devices if device["acks"] or device["user"] == WATCHER]
    for device in chance.sample(fitting, chance.randint(1, len(fitting))):
        device |= {"sdk": True, "stream": False, "positions": True}


def _choose(chance: random.Random, weights: dict[str, int]) -> str:
    return chance.choices(list(weights), list(weights.values()))[0]


def _moment(chance: random.Random, faults: list[float], seconds: float) -> float:
    """Return when something is asked: at any time, or around the beginning of a fault."""
    if faults and chance.random() < AROUND_FAULTS:
        at = chance.choice(faults) + chance.uniform(-BEFORE, AFTER)
        return round(min(max(at, 1.0), seconds), 3)
    return round(chance.uniform(1.0, seconds), 3)


def _operation(chance: random.Random, kinds: dict[str, int], number: int, at: float) -> Step:
    do = _choose(chance, kinds)
    user = chance.choice(USERS)
    key = f"k{number}"
    with_: dict[str, Any] = {}
    match do:
        case "notify":
            with_ = {"user": user, "key": key}
        case "burst":
            with_ = {"user": user, "keys": [f"{key}.{n}" for n in range(chance.randint(4, 7))]}
        case "collapse":
            with_ = {"user": user, "key": key, "collapse": chance.choice(("x", "y"))}
        case "publish":
            with_ = {"channel": chance.choice(NEWS), "key": key}
            if chance.random() < 0.2:
                with_["without"] = user
        case "rush":
            keys = [f"{key}.{n}" for n in range(chance.randint(3, 8))]
            with_ = {"channel": chance.choice(NEWS), "keys": keys, "seconds": chance.choice((0.02, 0.2, 1))}
        case "away":
            device = chance.choice([f"{user}-phone", "ann-laptop", "bob-laptop"])
            keys = [f"{key}.{n}" for n in range(chance.choice((0, 2, 5, 10)))]
            with_ = {"device": device, "seconds": chance.choice((0.5, 2, 4)), "keys": keys}
        case "task":
            steps = sorted(chance.sample(range(1, 100), chance.randint(0, 12)))
            with_ = {
                "task": f"t{number}",
                "user": user,
                "steps": steps,
                "end": chance.choice(("complete", "fail", "cancel", "")),
            }
        case "ingest":
            with_ = {"keyed": chance.random() < 0.5}
        case "chat":
            with_ = {"user": user, "key": key}
        case "direct":
            with_ = {"user": user, "to": chance.choice([other for other in USERS if other != user]), "key": key}
        case "leave" | "come" | "resubscribe" | "mark" | "delete" | "list":
            with_ = {"device": chance.choice([f"{user}-phone", "ann-laptop", "bob-laptop"])}
            if do == "mark":
                with_ |= {"read": chance.random() < 0.8, "up_to": chance.random() < 0.3}
            elif do == "list":
                with_ |= {"unread": chance.random() < 0.5}
        case "read":
            with_ = {"user": user, "channel": chance.choice(NEWS)}
    return Step(at, do, with_)


def _output(chance: random.Random, number: int, seconds: float) -> Step:
    """Return a task that writes so many texts, and who reads along: after so many seconds each."""
    readers = [round(chance.uniform(0, seconds), 3) for _ in range(chance.randint(2, 4))]
    with_ = {"task": f"o{number}", "count": chance.randint(5, 60), "readers": readers}
    return Step(round(chance.uniform(0.5, seconds / 2), 3), "output", with_)


def _fault(chance: random.Random, kinds: dict[str, int], nodes: int, seconds: float) -> Step:
    at = round(chance.uniform(1.5, seconds), 3)
    do = _choose(chance, kinds)
    node = f"n{chance.randint(1, nodes)}"
    with_: dict[str, Any] = {}
    match do:
        case "kill" | "stop":
            with_ = {"node": node, "seconds": round(chance.choice((0.05, 0.5, 3, 25)), 3)}
        case "hold":
            with_ = {"node": node, "seconds": chance.choice((1, 6, 12, 25))}
        case "part":
            with_ = {"node": node, "seconds": chance.choice((1, 5, 25))}
        case "cut_redis" | "cut_pubsub" | "lose_replies":
            with_ = {"node": node}
        case "delay_pubsub":
            with_ = {"node": node, "seconds": chance.choice((0.3, 1, 4))}
        case "kill_ingest":
            with_ = {"after": round(chance.uniform(0, 0.012), 4), "seconds": chance.choice((0.5, 3))}
        case "late_write":
            with_ = {"seconds": 12}
        case "redis_restart" | "redis_down":
            with_ = {"seconds": chance.choice((0.1, 1)) if do == "redis_restart" else chance.choice((4, 12))}
        case "redis_hold":
            with_ = {"seconds": chance.choice((0.5, 5, 12))}
        case "redis_lost":
            with_ = {"seconds": chance.choice((0.1, 1)), "lag": chance.choice((0.2, 1, 4))}
            if chance.random() < ONE_MACHINE:
                with_ |= {"node": node}
        case "failover" | "failover_back" | "failover_lost":
            with_ = {"seconds": chance.choice((0.5, 3, 8))}
            if do == "failover_lost":
                with_ |= {"lag": chance.choice((0.2, 1, 4))}
                if chance.random() < ONE_MACHINE:
                    with_ |= {"node": node}
            elif do == "failover_back":
                with_ |= {"back": True}
        case "redis_flush":
            with_ = {"seconds": chance.choice((0.1, 1))}
        case "disk_full" | "disk_slow":
            with_ = {"node": node, "seconds": chance.choice((0.5, 3))}
        case "disk_older":
            with_ = {"node": node, "lag": chance.choice((0.5, 2, 5))}
        case "redis_full":
            with_ = {"seconds": chance.choice((0.5, 3))}
        case "redis_rollback":
            with_ = {"lag": chance.choice((0.05, 2, 5))}
        case "evict" | "evict_presence":
            with_ = {"share": chance.choice((0.2, 0.6))}
        case "drop_device" | "slow_device":
            device = chance.choice(("ann-phone", "bob-phone", "cy-phone", "ann-laptop", "bob-laptop"))
            with_ = {"device": device} | ({"seconds": chance.choice((1, 5))} if do == "slow_device" else {})
        case "step_node":
            with_ = {"node": node, "ms": chance.choice((-3_600_000, -60_000, 3_600_000, 25 * 3_600_000))}
        case "step_redis":
            with_ = {"ms": chance.choice((-60_000, 60_000))}
        case "narrow":
            with_ = {"node": node, "seconds": 5}
    return Step(at, do, with_, fault=True)
