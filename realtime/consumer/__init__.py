"""The Python consumer of the Redis stream of a service. It imports nothing of the server but its values."""

from realtime.consumer.events import StreamEvent
from realtime.consumer.stream_consumer import StreamConsumer
from realtime.redis.entry_seals import MissingSecretError

__all__ = ["MissingSecretError", "StreamConsumer", "StreamEvent"]
