"""A visit by cent, Centrifugo's client of the server API in Python, unmodified: every method once, each answer as JSON.

visit_cent.py ADDRESS KEY USER    on each line {"said", and "result" or "error"}
"""

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import cent

NEWS = "news:cent"


def visit(client: cent.Client, user: str) -> None:
    def report(what: str, call: Callable[[Any], Any], request: Any) -> Any:
        try:
            result = call(request)
        except cent.CentApiResponseError as problem:
            print(json.dumps({"said": what, "error": problem.code}), flush=True)
            return None
        print(
            json.dumps({"said": what, "result": result.model_dump(exclude_none=True, serialize_as_any=True)}),
            flush=True,
        )
        return result

    print(json.dumps({"said": "version", "result": version("cent")}), flush=True)
    once = {"channel": NEWS, "idempotency_key": "one"}
    report("publish", client.publish, cent.PublishRequest(data={"n": 1}, tags={"colour": "blue"}, **once))
    first = report("publish again", client.publish, cent.PublishRequest(data={"n": 2}, **once))
    report("broadcast", client.broadcast, cent.BroadcastRequest(channels=[NEWS, "nowhere:a"], data={"n": 3}))
    report("publish nowhere", client.publish, cent.PublishRequest(channel="nowhere:a", data=1))
    since = cent.StreamPosition(offset=first.offset, epoch=first.epoch)
    whose = {"user": user, "channel": NEWS}
    wanted = cent.SubscribeRequest(info={"seat": 1}, data={"hello": 1}, recover_since=since, **whose)
    report("subscribe", client.subscribe, wanted)
    report("presence", client.presence, cent.PresenceRequest(channel=NEWS))
    report("presence_stats", client.presence_stats, cent.PresenceStatsRequest(channel=NEWS))
    report("history", client.history, cent.HistoryRequest(channel=NEWS, limit=10))
    report("history since", client.history, cent.HistoryRequest(channel=NEWS, limit=10, since=since))
    lost = cent.StreamPosition(offset=1, epoch="another")
    report("history elsewhere", client.history, cent.HistoryRequest(channel=NEWS, since=lost))
    report("channels", client.channels, cent.ChannelsRequest(pattern="news:*"))
    report("info", client.info, cent.InfoRequest())
    requests = [cent.PublishRequest(channel=NEWS, data=4), cent.HistoryRequest(channel=NEWS)]
    report("batch", client.batch, cent.BatchRequest(requests=requests))
    report("history_remove", client.history_remove, cent.HistoryRemoveRequest(channel=NEWS))
    report("unsubscribe", client.unsubscribe, cent.UnsubscribeRequest(**whose))
    report("refresh", client.refresh, cent.RefreshRequest(user="nobody", expired=True))
    enough = cent.Disconnect(code=4000, reason="enough")
    report("disconnect", client.disconnect, cent.DisconnectRequest(user=user, disconnect=enough))


def main(address: str, key: str, user: str) -> None:
    visit(cent.Client(address, key), user)
    try:
        cent.Client(address, "a-key-that-is-none").info(cent.InfoRequest())
    except cent.CentUnauthorizedError:
        print(json.dumps({"said": "wrong key", "error": 401}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
