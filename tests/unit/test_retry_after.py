"""The header Retry-After, in its forms."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.outbound.retry_after import MAX_RETRY_AFTER_SECONDS, parse_retry_after
from tests.support.long_form import examples

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 120 ", 120),
        ("1.5", 1.5),
        ("86401", 86_400),
        ("9" * 15, 86_400),
        ("Fri, 27 Nov 2026 12:01:00 GMT", 60),
        ("Friday, 27-Nov-26 12:01:00 GMT", 60),
        ("Fri Nov 27 12:01:00 2026", 60),
        ("Fri, 27 Nov 2026 14:01:00 +0200", 60),
        ("Fri, 27 Nov 2026 11:59:00 GMT", 0),
        ("Mon, 27 Nov 2028 12:00:00 GMT", 86_400),
        (None, None),
        ("", None),
        ("-1", None),
        ("1e3", None),
        ("inf", None),
        ("nan", None),
        ("١٢", None),
        ("soon", None),
        ("9" * 65, None),
        ("Fri, 99 Nov 2026 12:01:00 GMT", None),
        ("Fri, 27 Nov 99999 12:01:00 GMT", None),
    ],
)
def test_a_value(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text, NOW) == seconds


@examples(500)
@given(st.text(max_size=70))
def test_any_text_is_read_within_bounds_or_ignored(text: str) -> None:
    found = parse_retry_after(text, NOW)
    assert found is None or 0 <= found <= MAX_RETRY_AFTER_SECONDS


@examples(300)
@given(st.integers(min_value=0, max_value=86_400))
def test_a_date_and_its_seconds_are_the_same(seconds: int) -> None:
    at = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert parse_retry_after(at, NOW) == parse_retry_after(str(seconds), NOW) == seconds
