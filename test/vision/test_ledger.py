"""The accounts of frames, also while two threads write them."""

import threading

import pytest

from saccade_ros.vision.ledger import FrameLedger


def test_accounts_balance_at_every_moment():
    ledger, stop = FrameLedger(), threading.Event()

    def work() -> None:
        while not stop.is_set():
            ledger.receive()
            ledger.receive()
            ledger.drop("rate")
            ledger.use(1)

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    moments = [ledger.accounts() for _ in range(2000)]
    stop.set()
    for worker in workers:
        worker.join()
    for at in [*moments, ledger.accounts()]:
        assert at.received == at.used + sum(at.dropped.values()) + at.pending
        assert 0 <= at.pending <= 2 * len(workers)
    assert ledger.pending == 0


def test_accounts_are_a_copy():
    ledger = FrameLedger()
    ledger.receive()
    before = ledger.accounts()
    ledger.drop("rate")
    ledger.reset("gap")
    assert (before.pending, before.dropped, before.resets) == (1, {}, {})
    assert (ledger.accounts().dropped, ledger.accounts().resets) == ({"rate": 1}, {"gap": 1})


def test_cause_without_a_meaning_is_refused():
    with pytest.raises(KeyError, match="add it to DROP_CAUSES"):
        FrameLedger().drop("gremlins")


def test_counts_since_an_earlier_moment():
    ledger = FrameLedger()
    ledger.refuse("too_large")
    ledger.reset("gap")
    before = ledger.accounts()
    ledger.refuse("too_large")
    ledger.refuse("short_data")
    ledger.receive()
    ledger.lost_in_transport = 7
    after = ledger.accounts().since(before)
    assert (after.received, after.dropped, after.resets) == (3, {"too_large": 1, "short_data": 1}, {})
    assert (after.pending, after.lost) == (1, 7)


def test_newest_example_of_a_cause_is_kept_within_bounds():
    ledger = FrameLedger()
    ledger.refuse("too_large", "first")
    ledger.refuse("too_large", "second\n  line")
    ledger.refuse("unknown_encoding", "x" * 1_000_000)
    ledger.reset("gap", "5 s after 1 s")
    details = ledger.accounts().details
    assert (details["too_large"], details["gap"]) == ("second line", "5 s after 1 s")
    assert len(details["unknown_encoding"]) < 400
