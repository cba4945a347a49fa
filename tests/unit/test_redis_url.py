"""URLs of Redis that cannot be used are refused before anything connects, without repeating them."""

import pytest

from app.contracts.errors import BusUnavailableError
from realtime.redis.servers import redis_servers


@pytest.mark.parametrize(
    "url",
    [
        "redis://h/0?ssl_password=hidden",
        "redis://h/0?hidden=1",
        "rediss://h/0?hidden=1",
        "unix:///run/redis.sock?hidden=1",
        "rediss+sentinel://h:1/name/0?hidden=1",
        "rediss+cluster://h:1?ssl_hidden=1",
        "redis://u:hidden/0",
        "http://:hidden@h",
        "hidden",
    ],
)
async def test_a_url_that_cannot_be_used_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(BusUnavailableError, match="FLOW_REDIS_URL is not a Redis URL") as refusal:
        redis_servers(url)
    assert "hidden" not in str(refusal.value)
