"""Back-off between restarts of a process that died."""

from app.process.restarts import DELAYS_SECONDS, MAX_DEATHS, STABLE_SECONDS, Deaths


def test_the_first_start_again_is_at_once_and_the_next_ones_wait_longer() -> None:
    deaths = Deaths()
    delays = []
    while not deaths.too_many:
        deaths.record(0.1)
        delays.append(deaths.delay_seconds)
    assert delays == list(DELAYS_SECONDS)
    assert delays[0] == 0
    assert delays == sorted(delays)
    assert deaths.in_a_row == MAX_DEATHS


def test_a_process_that_lived_long_enough_begins_a_new_row() -> None:
    deaths = Deaths()
    for _ in range(MAX_DEATHS - 1):
        deaths.record(STABLE_SECONDS / 2)
    deaths.record(STABLE_SECONDS)
    assert (deaths.in_a_row, deaths.delay_seconds, deaths.too_many) == (1, 0.0, False)


def test_the_longest_delay_is_repeated() -> None:
    deaths = Deaths(limit=100)
    for _ in range(50):
        deaths.record(0)
    assert deaths.delay_seconds == DELAYS_SECONDS[-1]
    assert not deaths.too_many
