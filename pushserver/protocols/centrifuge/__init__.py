"""The Centrifuge client protocol, version 2, in JSON and Protobuf: what Centrifugo's client SDKs speak."""
