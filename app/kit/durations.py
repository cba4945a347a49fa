"""Durations in ISO 8601: one grammar for flows, settings and commands."""

import re
from datetime import timedelta
from fractions import Fraction

MAX_DURATION = timedelta(days=36_525)
DURATION_RULE = (
    "a duration is weeks, days, hours, minutes and seconds in ISO 8601, such as P1W, P30D, PT12H or PT1H30M; "
    "years and months have no fixed length"
)
_NUMBER = r"(\d{1,12}(?:[.,]\d{1,9})?)"
_ISO = re.compile(
    rf"P(?:{_NUMBER}W)?(?:{_NUMBER}D)?(?:T(?=\d)(?:{_NUMBER}H)?(?:{_NUMBER}M)?(?:{_NUMBER}S)?)?",
    re.ASCII | re.IGNORECASE,
)
_SECONDS = (604_800, 86_400, 3_600, 60, 1)
_MAX_QUOTED = 40


def parse_duration(text: str) -> timedelta:
    """Read an ISO 8601 duration of weeks, days, hours, minutes and seconds.

    Only the last number may have a fraction; the whole is of full milliseconds.

    Raises:
        ValueError: The text is no such duration, or longer than Python can count. The message repeats it.
    """
    found = _ISO.fullmatch(text)
    given = [] if found is None else [pair for pair in zip(found.groups(), _SECONDS, strict=True) if pair[0]]
    if not given or not all(number.isdecimal() for number, _ in given[:-1]):
        raise ValueError(f"{_shorten(text)} is not a duration: {DURATION_RULE}")
    milliseconds = sum(Fraction(number.replace(",", ".")) * seconds for number, seconds in given) * 1_000
    try:
        span = timedelta(milliseconds=int(milliseconds))
    except OverflowError:
        raise ValueError(f"{_shorten(text)} is too long") from None
    if milliseconds.denominator != 1:
        raise ValueError(f"{_shorten(text)} is finer than a millisecond")
    return span


def iso_duration(span: timedelta) -> str:
    """Write a duration in the units in which people do, such as ``P2DT12H`` or ``PT15M``."""
    minutes, seconds = divmod(span.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{span.microseconds:06}".rstrip("0") if span.microseconds else ""
    days = f"{span.days}D" if span.days else ""
    time = f"{hours}H" if hours else ""
    time += f"{minutes}M" if minutes else ""
    time += f"{seconds}{fraction}S" if seconds or fraction else ""
    return f"P{days}T{time}" if time else f"P{days or '0D'}"


def _shorten(text: str) -> str:
    return repr(text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}…")
