"""Arrows that no import shows, and words: read from the source, so that nothing has to be imported.

Each rule is a function from a module's name and source to what is wrong with it; each finds an offence that is planted
below.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import pytest

from pushserver.core.message_types import REPLIES, REQUESTS, SERVER_PUSHES
from pushserver.protocols.native.framing import SUBPROTOCOL
from tests.test_layers import FLOORS, MODULES, ROOT, folder_of, imports

Rule = Callable[[str, str], list[str]]
Function = ast.FunctionDef | ast.AsyncFunctionDef


@lru_cache(maxsize=1)
def _tree(source: str) -> ast.Module:
    """Return a module as all rules look at it, one after the other."""
    return ast.parse(source)


def _functions(tree: ast.Module) -> Iterator[Function]:
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node


def _parameters(function: Function) -> list[ast.arg]:
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return [parameter for parameter in every if parameter is not None]


# -- no constructor writes into a collaborator ------------------------------------------------------------------------

#: What makes an object: both are read, so that a dataclass is no way around.
_CONSTRUCTORS = {"__init__", "__post_init__"}
#: Methods of a clock and of a Deferred, which call what they are given, and keep nothing of who gave it.
_SCHEDULES = {"later", "every", "callLater", "addCallback", "addErrback", "addBoth", "addCallbacks"}
#: Constructors that hand themselves, or a method, to something they were given, each with why.
HANDS_ITSELF = {
    "app.service.PushService.__init__": "the service binds what the node calls above it: `BINDS`",
    "app.workers.worker.Worker.__init__": "the reactor calls a worker when the process ends, however that began",
    "server.node.Node.__init__": "the node binds what its parts call: `BINDS`",
    "server.outbox.Outbox.__init__": "how a transport's back-pressure is asked for",
    "web.http.PushChannel.__init__": "a weak set of the channels that are open, which calls none of them",
}


def assignments(module: str, source: str) -> list[str]:
    """What a constructor changes of what it was given, or of its own parts: attributes, items, and whom they call."""
    return [
        f"{module}:{line} {name} {text}"
        for line, name, text in _writes(module, source)
        if name not in HANDS_ITSELF or not text.startswith("hands")
    ]


def _writes(module: str, source: str) -> Iterator[tuple[int, str, str]]:
    for name, function in _named_functions(_tree(source), module.partition(".")[2]):
        if not isinstance(function, Function) or function.name not in _CONSTRUCTORS:
            continue
        own, *given = [parameter.arg for parameter in _parameters(function)]
        others = _aliases(function, own, set(given))
        values = {
            node.attr
            for node in ast.walk(function)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        }

        def elsewhere(node: ast.expr, own: str = own, others: set[str] = others) -> bool:
            """Whether an expression is something that was given, or a part of one's own."""
            root, attributes = _root(node)
            return root in others or (root == own and attributes > 0)

        for node in ast.walk(function):
            if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
                # An item of one's own dictionary is one's own.
                value = node.value
                inside = value.value if isinstance(node, ast.Subscript) and isinstance(value, ast.Attribute) else value
                if elsewhere(inside) or (inside is not value and _root(value)[0] in others):
                    yield node.lineno, name, f"assigns into {ast.unparse(node)}"
            elif isinstance(node, ast.Call):
                match node:
                    case ast.Call(func=ast.Name(id="setattr" | "delattr"), args=[target, *_]) if elsewhere(target):
                        yield node.lineno, name, f"assigns into {ast.unparse(target)}"
                    case ast.Call(func=ast.Attribute(value=target, attr=method)) if (
                        method not in _SCHEDULES and elsewhere(target) and _hands(node, own, values)
                    ):
                        yield node.lineno, name, f"hands itself to {ast.unparse(node.func)}"


def _root(node: ast.expr) -> tuple[str, int]:
    """Return the name that a chain of attributes and items begins with, and how many attributes it has."""
    attributes = 0
    while isinstance(node, ast.Attribute | ast.Subscript):
        attributes += isinstance(node, ast.Attribute)
        node = node.value
    return (node.id if isinstance(node, ast.Name) else ""), attributes


def _aliases(function: Function, own: str, given: set[str]) -> set[str]:
    """Return the names of what was given: parameters, and local names for them or for parts of one's own."""
    names = set(given)
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=targets, value=value):
                pairs = [(target, value) for target in targets]
            case ast.AnnAssign(target=target, value=ast.expr() as value) | ast.NamedExpr(target=target, value=value):
                pairs = [(target, value)]
            case ast.For(target=target, iter=value):
                pairs = [(target, value)]
            case _:
                continue
        for target, value in pairs:
            root, attributes = _root(value)
            if isinstance(target, ast.Name) and (root in names or (root == own and attributes)):
                names.add(target.id)
    return names


def _hands(call: ast.Call, own: str, values: set[str]) -> bool:
    """Whether an argument is the object itself, or something of it that is called later: a method, which is none of
    the ``values`` that the constructor sets, or a lambda."""
    for argument in [*call.args, *(keyword.value for keyword in call.keywords)]:
        match argument:
            case ast.Name(id=name) if name == own:
                return True
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name == own and attribute not in values:
                return True
            case ast.Lambda(body=body) if any(isinstance(n, ast.Name) and n.id == own for n in ast.walk(body)):
                return True
    return False


# -- who calls upward is bound in one place ---------------------------------------------------------------------------

#: Where parts are given what they call above them.
BINDS = {"pushserver.server.node", "pushserver.app.service"}
#: What is called like it, and binds nothing of ours.
BINDS_NOTHING = {"pushserver.manhole.verbs": "the arguments of a call, by `inspect.Signature`"}


def bindings(module: str, source: str) -> list[str]:
    """Callbacks that are bound elsewhere than in the node and the service; a method `bind…` may pass its own on."""
    if folder_of(module) not in FLOORS or module in BINDS or module in BINDS_NOTHING:
        return []
    return [
        f"{module}:{node.lineno} {name} binds {ast.unparse(node.func)}"
        for name, function in _named_functions(_tree(source), module)
        if not name.rpartition(".")[2].startswith("bind")
        for node in _own_nodes(function)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and re.match(r"bind(_|$)", node.func.attr)
    ]


# -- types to the ends ------------------------------------------------------------------------------------------------

#: What may never be `Any` where it is a parameter.
TYPED = {"engine", "clock", "reactor", "hub", "node", "broker", "config", "cluster", "requests", "connection", "log"}


#: Where such a one is `Any` all the same, each with why.
UNTYPED = {
    "client.tx.ClientService.__init__(reactor)": "to a type checker `twisted.internet.reactor` is a module",
    "web.tls._Reactor.__init__(reactor)": "stands before any reactor, that of a worker's sockets too",
    "web.tls.endpoint(reactor)": "the same",
}


def untyped(module: str, source: str) -> list[str]:
    """Parameters and attributes that stand for a collaborator, and have no type."""
    return [
        f"{module}:{line} {name}: Any"
        for line, name in _without_type(module.partition(".")[2], source)
        if name not in UNTYPED
    ]


def _without_type(module: str, source: str) -> Iterator[tuple[int, str]]:
    tree = _tree(source)
    aliases = {"Any"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "typing":
            aliases |= {alias.asname for alias in node.names if alias.name == "Any" and alias.asname}
    for node in tree.body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ) if not isinstance(value, ast.Constant) and _is_any(value, aliases):
                aliases.add(name)
    for name, function in _named_functions(tree, module):
        for parameter in _parameters(function) if isinstance(function, Function) else ():
            note = parameter.annotation
            if parameter.arg in TYPED and note is not None and _is_any(note, aliases):
                yield parameter.lineno, f"{name}({parameter.arg})"
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and _is_any(node.annotation, aliases):
            target = node.target
            name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
            if name.lstrip("_") in TYPED:
                yield node.lineno, f"{module}.{name}"


def _is_any(note: ast.expr, aliases: set[str]) -> bool:
    """Whether an annotation takes anything: `Any`, or a choice that has it, also in quotes or under another name."""
    match note:
        case ast.Name(id=name):
            return name in aliases
        case ast.Attribute(attr=name):
            return name == "Any"
        case ast.BinOp(left=left, right=right):
            return _is_any(left, aliases) or _is_any(right, aliases)
        case ast.Constant(value=str(text)):
            return _is_any(ast.parse(text, mode="eval").body, aliases)
        case ast.Subscript(value=ast.Name(id=kind) | ast.Attribute(attr=kind), slice=inner):
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return kind in ("Optional", "Union", "Annotated", "Final", "ClassVar") and any(
                _is_any(part, aliases) for part in parts
            )
    return False


# -- the rooms take any protocol --------------------------------------------------------------------------------------

#: Plain words among the protocol's names: topics, methods of the API, scripts and tables are called so as well.
ENGLISH = {
    "closed", "error", "history", "inbox", "output", "presence", "publish", "resync", "subscribe", "task",
    "unsubscribe",
}  # fmt: skip
#: What only the native protocol says: its name, its messages' names, and the subprotocol.
NATIVE = (REQUESTS | REPLIES | SERVER_PUSHES | {"native", SUBPROTOCOL}) - ENGLISH
#: Which of these a module below the protocols says, each with why. Pushes of the server are named by the public
#: contract, for clients of any protocol and for the server side: a session says them in its own words.
NAMES_OF_ALL = {
    "pushserver.server.chat": ({"chat_message"}, "the push that a chat message becomes"),
    "pushserver.server.inbox_changes": ({"inbox_changed"}, "the push about it"),
    "pushserver.server.presence": ({"presence_join", "presence_leave", "user_status"}, "the pushes about it"),
    "pushserver.server.stats_channel": ({"system_stats"}, "the push with them"),
    "pushserver.server.tasks": (
        {"task_completed", "task_created", "task_failed", "task_progress", "task_status_changed"},
        "the pushes about them, which are stored too",
    ),
    "pushserver.engine.redis.subscriber": ({"pong"}, "Redis' own answer to PING"),
    "pushserver.engine.redis.scripts": ({"inbox_read"}, "the name of a script"),
    "pushserver.engine.redis.pages": ({"inbox_read"}, "the name of a script"),
}


def native_names(module: str, source: str) -> list[str]:
    """The native protocol's own message names below the protocols."""
    allowed, _ = NAMES_OF_ALL.get(module, (set(), ""))
    return [f"{module}:{line} says {text!r}" for line, text in _native_texts(module, source) if text not in allowed]


def _native_texts(module: str, source: str) -> Iterator[tuple[int, str]]:
    if folder_of(module) in ("server", "engine"):
        for node in ast.walk(_tree(source)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
                text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
                if text in NATIVE:
                    yield node.lineno, text


# -- moments and durations --------------------------------------------------------------------------------------------

#: Where clocks are made: the server's, and the reactor's before anything is scheduled.
CLOCKS = {"pushserver.server.clock", "pushserver.app.process"}
#: Calls of `datetime` classes that look at the wall clock.
_LOOKS = {"now", "utcnow", "today"}
#: What is called like this is wall time, so it is never made of a count of seconds.
_MOMENTS = {"now", "_now", "timestamp", "wall", "wall_clock"}
#: The same of fields, which may be assigned or given by keyword.
_MOMENT_FIELDS = {"timestamp", "wall", "at"}
#: Calls without arguments that return the wall time, or may: a name says no more than this.
_WALL = {"now", "_now", "wall", "wall_clock"}
#: Modules that look at a clock which is not the server's.
_CLOCK_MODULES = {"time", "twisted.python.runtime"}

#: Where a moment of the wall clock is compared with another, or taken from it, each with why no monotonic clock may do
#: it: what is compared was written by another machine, or before a restart, or is no wall time.
WALL_ARITHMETIC = {
    "app.service.PushService._certificate_expiry": "a certificate says when it ends by the wall clock",
    "app.workers.load_table.LoadTable.ahead": "its `now` is the machine's monotonic clock",
    "engine.embedded.events.EmbeddedDeliveries.begin": "events are stored with the wall time, also before a restart",
    "engine.redis.commands.RedisCommands.note_time": "Redis tells its wall time: how far this one is from it",
    "engine.redis.events.RedisDeliveries._oldest": "events are stored with the wall time; a step forward ends none",
    "server.channel_tokens.ChannelTokens._look": "a token says when it ends by the wall clock",
    "server.events.receiver.Receiver._retry_after": "a receiver says when to come again by the wall clock",
    "server.events.sender.WebhookSender.run": "what is held is stored with the wall time; monotonic from here on",
    "server.fanout.FanOut._delivered": "another node stamped the message",
    "server.heartbeat.Heartbeat._token_left": "a token says when it ends by the wall clock",
    "server.hub.Hub.wall_time": "makes a moment that people read of one of the monotonic clock",
    "server.revocations.Revocations.revoke_user": "a caller says by the wall clock which tokens are meant",
    "web.centrifuge_methods.CentrifugeMethods._refresh": "a caller says by the wall clock when a connection ends",
    "web.metrics.EventMeasures.collect": "the oldest event was stored with the wall time, also before a restart",
}


def clocks(module: str, source: str) -> list[str]:
    """Looks at a clock that is not `pushserver.server.clock`'s, and durations that are counted on the wall clock."""
    if folder_of(module) not in FLOORS or module in CLOCKS:
        return []
    found: list[str] = []
    tree = _tree(source)
    for node in ast.walk(tree):
        where = f"{module}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import) and any(alias.name in _CLOCK_MODULES for alias in node.names):
            found.append(f"{where} imports a clock")
        elif isinstance(node, ast.ImportFrom) and not node.level and _imports_clock(node):
            found.append(f"{where} imports from a clock's module")
        elif (
            isinstance(node, ast.Attribute)
            and node.attr in _LOOKS
            and ast.unparse(node.value).endswith(("datetime", "date"))
        ):
            found.append(f"{where} asks {ast.unparse(node)}")
        elif (isinstance(node, ast.FunctionDef) and node.name in _MOMENTS and _counts_seconds(node)) or (
            isinstance(node, ast.keyword | ast.Assign | ast.AnnAssign) and _named_moment(node) and _counts_seconds(node)
        ):
            found.append(f"{where} takes a count of seconds for a moment")
        elif (
            isinstance(node, ast.BinOp)
            and isinstance(node.op, ast.Mult)
            and any(isinstance(side, ast.Call) and _is_seconds(side.func) for side in (node.left, node.right))
        ):
            found.append(f"{where} makes milliseconds of seconds: there is `Clock.milliseconds`")
    return found + [
        f"{module}:{line} {name} counts on the wall clock: {text}"
        for line, name, text in wall_arithmetic(module, source)
        if name not in WALL_ARITHMETIC
    ]


def _imports_clock(node: ast.ImportFrom) -> bool:
    names = {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return bool(names & _CLOCK_MODULES)


def _named_moment(node: ast.keyword | ast.Assign | ast.AnnAssign) -> bool:
    if isinstance(node, ast.keyword):
        return node.arg in _MOMENT_FIELDS
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    names = {getattr(target, "id", getattr(target, "attr", "")) for target in targets}
    return bool(names & _MOMENT_FIELDS)


def _counts_seconds(node: ast.AST) -> bool:
    return any(isinstance(call, ast.Call) and _is_seconds(call.func) for call in ast.walk(node))


def _is_seconds(function: ast.expr) -> bool:
    return isinstance(function, ast.Attribute | ast.Name) and ast.unparse(function).rpartition(".")[2] == "seconds"


def wall_arithmetic(module: str, source: str) -> Iterator[tuple[int, str, str]]:
    """Differences and comparisons of which one side is the wall time, as a call or as a local name for it: the line,
    the function by its dotted name below the package, and the text."""
    for name, function in _named_functions(_tree(source), module.partition(".")[2]):
        nodes = list(_own_nodes(function))
        walls = {target for node in nodes for target in _wall_names(node)}
        for node in nodes:
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
                sides = [node.left, node.right]
            elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Sub):
                sides = [node.value]
            elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE):
                sides = [node.left, *node.comparators]
            else:
                continue
            if any(_is_wall(side, walls) for side in sides):
                yield node.lineno, name, ast.unparse(node)


def _named_functions(tree: ast.AST, prefix: str) -> Iterator[tuple[str, Function | ast.Module]]:
    if isinstance(tree, ast.Module):
        yield prefix, tree
    for node in ast.iter_child_nodes(tree):
        inner = f"{prefix}.{node.name}" if isinstance(node, ast.ClassDef | Function) else prefix
        if isinstance(node, Function):
            yield inner, node
        yield from _named_functions(node, inner)


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """Every node of a function, or of a module, without the functions in it; lambdas and comprehensions are its own."""
    for node in ast.iter_child_nodes(function):
        if not isinstance(node, Function):
            yield node
            yield from _own_nodes(node)


def _wall_names(node: ast.AST) -> Iterator[str]:
    pairs: list[tuple[ast.expr, ast.expr]] = []
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs += zip(target.elts, node.value.elts, strict=False)
            else:
                pairs.append((target, node.value))
    elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
        pairs.append((node.target, node.value))
    for target, value in pairs:
        if isinstance(target, ast.Name) and _is_wall(value, set()):
            yield target.id


def _is_wall(node: ast.expr, walls: set[str]) -> bool:
    """Whether an expression is the wall time, or is reckoned from it."""
    match node:
        case ast.Name(id=name):
            return name in walls
        case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name), args=[]):
            return name in _WALL
        case ast.Call(func=ast.Name(id="min" | "max" | "int" | "float"), args=given):
            return any(_is_wall(each, walls) for each in given)
        case ast.BinOp(left=left, right=right):
            return _is_wall(left, walls) or _is_wall(right, walls)
        case ast.IfExp(body=body, orelse=other):
            return _is_wall(body, walls) or _is_wall(other, walls)
        case ast.NamedExpr(value=value):
            return _is_wall(value, walls)
    return False


# -- words ------------------------------------------------------------------------------------------------------------

#: Words of the house that readers had to learn, and what the field says for each.
WORDS = {
    "doorway": "port", "house": "factory, server", "seat": "role", "Alone": "SingleProcess", "roll": "load_table",
    "strike": "clear", "bury": "expire", "burial": "expiry", "enter": "register", "interject": "write_first",
    "free": "direct_socket", "switched": "route_changed", "recall": "replay", "catch_up": "replay",
    "following": "channel", "Joining": "CatchUp", "attended": "tracks_presence", "announced": "announces_presence",
    "concluded": "finished", "_over": "_recently_finished", "outdated": "resend_latest", "arrived": "caught_up",
    "Draft": "RawConfig", "Unexpected": "InvalidValue", "Once": "IdempotencyKey", "lot": "jitter, batch, total",
    "heard": "received", "hear": "receive", "say": "send", "tell": "notify", "visible": "get_visible",
    "meant": "targets", "Place": "Target", "LINE": "CONTROL_FD", "Bounds": "Limits", "Pace": "ThrottleRules",
    "Want": "SubscribeItem", "settle": "freeze_gc, flush, cancel_timer", "Say": "Send", "Asked": "Perform",
    "gate": "admission", "beat": "heartbeat", "One": "SingleProtocolFactory", "arrive": "begin",
    "heard_at": "last_heard_at",
}  # fmt: skip
#: Which of these are a word of the house only as they are written there, alone: in other letters, in other forms and
#: within a longer name they are plain English, or the field's word.
WHOLE = {
    "Alone", "Asked", "Bounds", "Joining", "LINE", "One", "Once", "Pace", "Place", "Want", "_over", "announced",
    "arrive", "arrived", "catch_up", "enter", "following", "free", "heard", "heard_at", "roll", "visible",
}  # fmt: skip
#: What is called after these words, because it is about them. The names of tests are sentences.
NAMES_WORDS = {"house_word", "house_words"}
#: Forms that no ending makes.
IRREGULAR = {"struck": "strike"}
#: Words that were the house's for something once, and are the field's for what they name now.
STAYS = {
    "ask": "what a question is sent with",
    "join": "how a user comes into a channel's presence; its event is `presence.join`",
    "lost": "a field of the API and of the protocol; a connection that was lost",
    "said": "what somebody said: plain English for a text of theirs",
    "settled": "control engineering's word for a value that has stopped moving: `core.settling`",
    "settling": "the same",
    "told": "what somebody was told: plain English for what a message had",
    "positioned": "a publication that has its position; a field of Centrifuge's protocol",
    "sources": "where keys come from, and which layers of the configuration there are",
    "upgrade": "HTTP's word for a change of protocol",
}
#: Names that users write, or may, each with why it stays.
PUBLIC_WORDS = {
    "pushserver.client.tx": {"hear": "the callable that ClientService's readers take, a documented parameter"},
}

#: What a function returns, called an answer behind what else it does.
_ANSWERS = re.compile(r"(?:[.;,]|\band)\s+[Aa]nswers?\s(?!nothing)")

_DOCUMENTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)


def _forms(word: str) -> set[str]:
    """Return a word as English bends it, in small letters."""
    word = word.lower()
    stem = word[:-1] if word[-1] in "ey" else word
    forms = {word, f"{word}s", f"{word}es", f"{word}ing", f"{stem}ing", f"{stem}ed", f"{word}ed"}
    return forms | {f"{stem}ies", f"{stem}ied"} if word[-1] == "y" else forms | {f"{word}{word[-1]}ing"}


#: Each form of a word that is one of the house within a longer name too, and the word.
FORMS = {form: word for word in WORDS if word not in WHOLE for form in _forms(word) if form not in STAYS} | IRREGULAR


def house_word(name: str) -> str | None:
    """Return the word of the house that a name is or has in it, in Python's spelling or JavaScript's and in any form of
    the word; None if there is none."""
    spelled = re.sub(r"(?<=[a-z])([A-Z])", lambda found: f"_{found[1].lower()}", name)
    tries = [name, spelled] + [each.lstrip("_") for each in (name, spelled) if not each.endswith("__")]
    whole = next((word for word in tries if word in WHOLE), None)
    if whole is not None or name in NAMES_WORDS or name.startswith("test_"):
        return whole
    parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower().split("_")
    return next((FORMS[part] for part in parts if part in FORMS), None)


def words(module: str, source: str) -> list[str]:
    """What is defined under a word of the house, or described with one."""
    found: list[str] = []
    public = PUBLIC_WORDS.get(module, {})
    for node in ast.walk(_tree(source)):
        name = ""
        said = (ast.get_docstring(node) or "") if isinstance(node, _DOCUMENTED) else ""
        if said.startswith("Answers ") or (isinstance(node, Function) and _ANSWERS.search(said)):
            found.append(f'{module}:{getattr(node, "lineno", 1)} "Answers ...": say Return, or Send')
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = node.name
        elif isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = node.attr
        word = house_word(name)
        if word is not None and name not in public:
            found.append(f"{module}:{getattr(node, 'lineno', 0)} {name}: say {WORDS[word]}")
    return found


# -- no circle --------------------------------------------------------------------------------------------------------


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The sets of modules that import each other, also under `TYPE_CHECKING` or inside functions (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in sorted(graph[module]):
            if target not in index:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], index[target])
        if low[module] == index[module]:
            part: list[str] = []
            while not part or part[-1] != module:
                part.append(stack.pop())
            if len(part) > 1:
                found.append(sorted(part))

    for module in sorted(graph):
        if module not in index:
            visit(module)
    return found


def import_graph(sources: dict[str, tuple[str, bool]]) -> dict[str, set[str]]:
    """Which module imports which: by name, source and whether it is a package."""
    graph: dict[str, set[str]] = {module: set() for module in sources}
    for module, (source, package) in sources.items():
        for name, _ in imports(source, module, package):
            target = name if name in sources else name.rpartition(".")[0]
            if target in sources and target != module:
                graph[module].add(target)
    return graph


# -- the whole tree ---------------------------------------------------------------------------------------------------

RULES: dict[str, Rule] = {
    "assignments": assignments,
    "bindings": bindings,
    "untyped": untyped,
    "native_names": native_names,
    "clocks": clocks,
    "words": words,
}


def test_no_module_breaks_a_rule() -> None:
    sources = {module: path.read_text() for module, path in MODULES.items()}
    assert [fault for module in sources for rule in RULES.values() for fault in rule(module, sources[module])] == []


def test_no_test_tool_or_measurement_has_a_word_of_the_house() -> None:
    root = Path(__file__).parent.parent
    paths = [path for folder in ("tests", "tools", "bench", "examples") for path in (root / folder).rglob("*.py")]
    sources = {".".join(path.relative_to(root).with_suffix("").parts): path.read_text() for path in paths}
    assert {"tests.test_arrows", "tools.shape", "bench.compare"} <= sources.keys()
    assert [fault for module, source in sources.items() for fault in words(module, source)] == []


#: What a script defines: functions and their parameters, local names, and the variables of loops.
_LUA = re.compile(r"\blocal (?!function)([\w, ]+)|\bfunction ([\w.]+) ?\(([\w, ]*)\)|\bfor ([\w, ]+?) (?:=|in\b)")


def lua_words(name: str, source: str) -> list[str]:
    """What is defined in a script under a word of the house, and the script's own name."""
    code = re.sub(r"--.*", "", source)
    defined = {
        part for found in _LUA.finditer(code) for group in found.groups("") for part in re.findall(r"\w+", group)
    }
    return [f"{name}: {each}: say {WORDS[word]}" for each in [name, *sorted(defined)] if (word := house_word(each))]


def test_no_script_has_a_word_of_the_house() -> None:
    scripts = list((ROOT / "engine" / "redis" / "lua").glob("*.lua"))
    assert len(scripts) > 50
    assert [fault for path in scripts for fault in lua_words(path.stem, path.read_text())] == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("unread_tell", ""),
        ("inbox", "local function tell(box, room)\nend"),
        ("inbox", "local function add(box, seat)\nend"),
        ("inbox", "local told, buried_at = 1, 2"),
        ("inbox", "for _, beat in ipairs(all) do end"),
        ("inbox", "for gate = 1, 2 do end"),
    ],
)
def test_a_planted_word_of_the_house_is_found_in_a_script(name: str, source: str) -> None:
    assert len(lua_words(name, source)) == 1


def test_what_a_script_says_in_a_comment_or_calls_is_not_found() -> None:
    assert lua_words("inbox", "-- local tell\nlocal added = tell(box, told)\nfor n = first, last do end") == []


def test_no_modules_import_each_other() -> None:
    sources = {module: (path.read_text(), path.name == "__init__.py") for module, path in MODULES.items()}
    assert circles(import_graph(sources)) == []


# -- planted offences -------------------------------------------------------------------------------------------------


def test_a_word_is_refused_or_stays() -> None:
    assert not WORDS.keys() & STAYS.keys()


def test_each_word_that_is_public_is_still_needed() -> None:
    for module, public in PUBLIC_WORDS.items():
        tree = ast.parse(MODULES[module].read_text())
        defined = {parameter.arg for function in _functions(tree) for parameter in _parameters(function)}
        assert public.keys() <= defined
        assert all(house_word(word) for word in public)


def test_each_place_that_may_count_on_the_wall_clock_does() -> None:
    found = {
        name
        for module, path in MODULES.items()
        if folder_of(module) in FLOORS
        for _, name, _ in wall_arithmetic(module, path.read_text())
    }
    assert found >= WALL_ARITHMETIC.keys()


def test_each_name_that_a_module_may_say_is_said() -> None:
    for module, (names, _) in NAMES_OF_ALL.items():
        assert {text for _, text in _native_texts(module, MODULES[module].read_text())} == names


def test_each_collaborator_that_may_have_no_type_has_none() -> None:
    found = {name for module, path in MODULES.items() for _, name in _without_type(module[11:], path.read_text())}
    assert found >= UNTYPED.keys()


def test_each_constructor_that_may_hand_itself_on_does() -> None:
    assert {name for module, path in MODULES.items() for _, name, _ in _writes(module, path.read_text())} >= (
        HANDS_ITSELF.keys()
    )


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        ("assignments", "server.a", "class A:\n def __init__(self, hub):\n  hub.lagged = self.read"),
        ("assignments", "server.a", "class A:\n def __init__(self, hub):\n  hub.fan_out.outdated = self.read"),
        ("assignments", "web.a", "class A:\n def __init__(self, *, hub):\n  hub.callbacks['x'].call = 1"),
        ("assignments", "engine.a", "class A:\n def __init__(self):\n  self.b = B()\n  self.b.owner = self"),
        ("assignments", "server.a", "class A:\n def __init__(self, hub):\n  hub.calls['x'] = self.f"),
        ("assignments", "server.a", "class A:\n def __init__(self, calls):\n  calls['x'] = self.f"),
        ("assignments", "server.a", "class A:\n def __init__(self, hub):\n  self.hub = hub\n  self.hub.calls['x'] = 1"),
        ("assignments", "server.a", "class A:\n def __init__(self, hub):\n  del hub.calls['x']"),
        ("assignments", "server.a", "class A:\n def __init__(self, hub):\n  setattr(hub, 'lagged', self.f)"),
        ("assignments", "server.a", "class A:\n def __init__(self, hub):\n  h = hub.fan_out\n  h.x = self.f"),
        ("assignments", "server.a", "class A:\n def __init__(self, hub):\n  self.hub = hub\n  h = self.hub\n  h.x = 1"),
        ("assignments", "server.a", "class A:\n def __init__(self, hubs):\n  for hub in hubs:\n   hub.x = 1"),
        ("assignments", "server.a", "class A:\n def __init__(self, hub):\n  hub.bind(self.f)"),
        ("assignments", "server.a", "class A:\n def __init__(self, hub):\n  hub.bind(lagged=lambda: self.f(1))"),
        ("assignments", "server.a", "class A:\n def __init__(self, hub):\n  hub.listeners.append(self)"),
        ("assignments", "server.a", "class A:\n def __init__(self, hub):\n  self.hub = hub\n  self.hub.add(self)"),
        ("assignments", "server.a", "class A:\n def __post_init__(self):\n  self.hub.lagged = self.f"),
        ("assignments", "server.node", "class Node:\n def __init__(self, hub):\n  hub.lagged = self.f"),
        ("bindings", "server.a", "def f(hub):\n hub.bind(g)"),
        ("bindings", "web.a", "class A:\n def start(self):\n  self.node.bind_streams(self.receive)"),
        ("bindings", "engine.a", "engine.bind(1)"),
        ("untyped", "server.a", "def f(engine: Any): pass"),
        ("untyped", "app.a", "async def f(*, clock: Any): pass"),
        ("untyped", "web.a", "def f(engine: Any | None = None): pass"),
        ("untyped", "server.a", "def f(engine: typing.Any): pass"),
        ("untyped", "server.a", "def f(engine: Optional[typing.Any]): pass"),
        ("untyped", "server.a", "def f(engine: 'None | Any'): pass"),
        ("untyped", "server.a", "from typing import Any as Engine\ndef f(engine: Engine): pass"),
        ("untyped", "server.a", "Engine = Any\ndef f(engine: Engine): pass"),
        ("untyped", "manhole.a", "class Host(Protocol):\n reactor: Any"),
        ("untyped", "client.a", "class A:\n def __init__(self, reactor):\n  self._reactor: Any = reactor"),
        ("native_names", "server.a", "reply('auth_success')"),
        ("native_names", "server.a", "reply('pong')"),
        ("native_names", "server.a", "if push.type == 'task_created': pass"),
        ("native_names", "server.a", "if protocol == 'native': pass"),
        ("native_names", "engine.a", "say = b'auth_failed'"),
        ("native_names", "server.a", "if subprotocol == 'pushserver.v1.json': pass"),
        ("clocks", "server.a", "import time"),
        ("clocks", "web.a", "def f():\n from time import monotonic"),
        ("clocks", "engine.a", "import datetime\nx = datetime.datetime.now()"),
        ("clocks", "engine.a", "def _now(self):\n return int(self._clock.seconds() * 1000)"),
        ("clocks", "server.a", "Publication(timestamp=int(clock.seconds() * 1000))"),
        ("clocks", "server.a", "from twisted.python import runtime\nnow = runtime.seconds()"),
        ("clocks", "server.a", "from twisted.python.runtime import seconds"),
        ("clocks", "server.a", "def f(event):\n event.at = int(reactor.seconds() * 1000)"),
        ("clocks", "server.a", "def f(event):\n event.at = reactor.seconds()"),
        ("clocks", "server.a", "def f():\n return int(reactor.seconds() * 1000)"),
        ("clocks", "server.a", "def f(self):\n began = self._clock.now()\n g()\n return self._clock.now() - began"),
        ("clocks", "server.a", "def f(clock, began):\n return clock.now() - began"),
        ("clocks", "web.a", "def f(self):\n return self._until > self._now()"),
        ("clocks", "web.a", "def f(self):\n now, told = self._clock.now(), 0\n return now >= self._until"),
        ("clocks", "engine.a", "def f(self):\n return [e for e in self.all if e.at < max(0, self._clock.now())]"),
        ("clocks", "app.a", "def f(self):\n self._left -= wall_clock()"),
        ("words", "server.a", "class Joining: pass"),
        ("words", "server.a", "def tell(self): pass"),
        ("words", "web.a", "def f(house): pass"),
        ("words", "manhole.a", "def f(self):\n self._meant = 1"),
        ("words", "client.a", "def _catch_up(self): pass"),
        ("words", "client.a", "def subscribe(self, hear): pass"),
        ("words", "publisher.a", "class Place: pass"),
        ("words", "pushctl.a", "for lot in lots: pass"),
        ("words", "web.a", "class A:\n def f(self):\n  'Answers with JSON.'"),
        ("words", "web.a", "def f():\n 'Opens it; answers with the port.'"),
        ("words", "web.a", "def f():\n 'Sign in, and\\nanswer the first message.'"),
        ("words", "web.a", "def f():\n 'The collector is off. Answers what there was.'"),
        ("words", "server.a", "SETTLE = 1"),
        ("words", "config.a", "def f(draft): pass"),
        ("words", "engine.a", "def _buried(): pass"),
        ("words", "engine.a", "beat_at = 1"),
        ("words", "engine.a", "class TellUnread: pass"),
        ("words", "server.a", "def _say_gone(self): pass"),
        ("words", "app.a", "def _all_say(self): pass"),
        ("words", "client.a", "class A:\n def f(self):\n  self.tellsOnce = 1"),
        ("words", "web.a", "class Doorways: pass"),
        ("words", "web.a", "for HTTPGate in gates: pass"),
    ],
)
def test_a_planted_offence_is_found(rule: str, module: str, source: str) -> None:
    assert RULES[rule](f"pushserver.{module}", source)


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        ("assignments", "server.a", "class A:\n def __init__(self, hub):\n  self.hub = hub\n  self.c[hub] = 1"),
        (
            "assignments",
            "server.a",
            "class A:\n def __init__(self):\n  loop = Loop()\n  loop.clock = 1\n  self.l = loop",
        ),
        ("assignments", "server.a", "class A:\n def bind(self, hub):\n  hub.lagged = self.read"),
        (
            "assignments",
            "server.a",
            "class A:\n def __init__(self, clock):\n  clock.every(5, self.look, log, 'looking')",
        ),
        (
            "assignments",
            "server.a",
            "class A:\n def __init__(self, hub):\n  self.id = 1\n  self.name = hub.name(self.id)",
        ),
        ("assignments", "server.node", "class Node:\n def __init__(self, hub):\n  hub.bind(self.f)"),
        ("bindings", "server.a", "class A:\n def bind_changed(self, changed):\n  self.hub.bind(changed)"),
        ("bindings", "server.node", "hub.bind(tasks.resend_latest)"),
        ("bindings", "app.a", "async def f(reactor):\n await bind(reactor, 'tcp:1')"),
        ("untyped", "server.a", "def f(engine: IEngine, value: Any): pass"),
        ("untyped", "server.a", "def f(config: dict[str, Any], log: Callable[[Any], None]): pass"),
        ("native_names", "server.a", "published('inbox')"),
        ("native_names", "server.tasks", "event('task_created')"),
        ("native_names", "web.a", "reply('auth_success')"),
        ("clocks", "server.a", "began = clock.seconds()\nnow = clock.now()"),
        ("clocks", "server.a", "def f(clock, began):\n return clock.seconds() - began"),
        ("clocks", "server.a", "def f(clock):\n return Publication(at=clock.now(), until=clock.now() + 5)"),
        ("clocks", "server.a", "def f(clock):\n now = clock.now()\n def g(now):\n  return now - 1\n return g(now)"),
        ("clocks", "app.service", "class PushService:\n def _certificate_expiry(self): return self.end - clock.now()"),
        ("clocks", "client.a", "import time"),
        ("words", "server.a", "def send(self, targets): return tell(targets)"),
        ("words", "server.a", "def f(told, settled_at, last_heard_at, keeps_free_pages, place_of): pass"),
        ("words", "web.a", "def f():\n 'A worker that has ended and answers nothing more.'"),
        ("words", "web.a", "def f():\n 'Answer a request with an error.'"),
        ("words", "client.tx", "def subscribe(self, hear): pass"),
        ("words", "server.a", "async def ask(self, question):\n 'Return what each node answered.'"),
    ],
)
def test_what_is_no_offence_is_not_found(rule: str, module: str, source: str) -> None:
    assert RULES[rule](f"pushserver.{module}", source) == []


@pytest.mark.parametrize(
    "inner",
    ["from pushserver import a", "if TYPE_CHECKING:\n from pushserver.a import A", "def f():\n import pushserver.a"],
)
def test_a_planted_circle_is_found(inner: str) -> None:
    sources = {
        "pushserver.a": ("from pushserver.b import B", False),
        "pushserver.b": ("from pushserver.c import C", False),
        "pushserver.c": (inner, False),
        "pushserver.d": ("from pushserver.a import A\nfrom pushserver.b import B", False),
    }
    assert circles(import_graph(sources)) == [["pushserver.a", "pushserver.b", "pushserver.c"]]
