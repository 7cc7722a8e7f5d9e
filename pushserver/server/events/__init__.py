"""Word to the backend: events are made where something happens, kept by the engine, and sent to webhooks.

rooms -> EventMaker: is this type made at all? -> engine: kept in the transaction of what it tells
rooms -> EventRecorder: what belongs to no write of the engine, kept as soon as the engine can
EventService, on one node at a time -> WebhookSender, one for each webhook -> Receiver: one HTTP request
                                                                  HostLookups: its address
"""
