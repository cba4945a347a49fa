"""JSON of answers and events."""

from msgspec import json

encode = json.encode
