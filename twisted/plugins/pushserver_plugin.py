"""Tells ``twistd`` of the command ``pushserver``; importing more here would install a reactor too early."""

from twisted.application.service import ServiceMaker

pushserver = ServiceMaker(  # type: ignore[no-untyped-call]
    "pushserver", "pushserver.tap", "Real-time WebSocket push: channels, tasks, inboxes.", "pushserver"
)
