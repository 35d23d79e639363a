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
