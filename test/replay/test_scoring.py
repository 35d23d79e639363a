"""Every frame of a trial is in one class, and what comes out is paired with what went in, whatever was dropped."""

from dataclasses import replace

import pytest
from test_report import row

from saccade_ros.measure.usage import Usage
from saccade_ros.replay.played import Played
from saccade_ros.replay.scoring import Limits, Receipt, classify, pair, score, score_count
from saccade_ros.replay.trial import Arrival
from saccade_ros.vision.ledger import DROP_CAUSES, Accounts

MS, TOPIC = 10**6, "/camera"
LIMITS = Limits(loss_share=0.1, latency_ms=100.0)


def played(count, topics=(TOPIC,)):
    """Images stamped 0, 1, 2, .. and sent 10 ms apart."""
    images = [(topic, i, 10 * MS * i, 10 * MS * i) for i in range(count) for topic in range(len(topics))]
    return Played.read({"topics": topics, "images": images, "complete": True, "offered_hz": 100.0})


def receipt(stamp_ns, received_ms, topic=TOPIC, **changes):
    return Receipt(replace(row(0), stream=topic, stamp_ns=stamp_ns, **changes), received_ms * MS)


def test_every_cause_has_a_class_of_its_own():
    accounts = Accounts(received=len(DROP_CAUSES), dropped=dict.fromkeys(DROP_CAUSES, 1))
    classes = classify(len(DROP_CAUSES) + 3, accounts, [])
    assert classes.pop("lost_in_transport") == 3
    assert set(classes.values()) == {1}
    assert len(classes) == len(DROP_CAUSES)
    assert {"replaced_by_newer", "not_sampled", "malformed.undecodable", "other.reset", "other.late"} <= set(classes)


def test_frames_in_embeddings_are_classed_by_what_was_computed():
    rows = [
        replace(row(0), encoded=False, tokens_computed=0),
        replace(row(0), encoded=True, tokens_computed=10, tokens=64),
        replace(row(0), encoded=True, tokens_computed=64, tokens=64),
        replace(row(0), encoded=True, tokens_computed=74, tokens=64),  # a sparse step, and a whole one after it
    ]
    assert classify(8, Accounts(received=8), rows) == {"gated": 2, "encoded_sparse": 2, "encoded_dense": 4}


ACCOUNTS = Accounts(received=9, used=6, dropped={"overflow": 2, "reset": 1})
RECEIPTS = [receipt(1, 15), receipt(5, 75), receipt(7, 90)]


def test_trial_whose_frames_are_all_accounted_for():
    trial = score(played(10), ACCOUNTS, RECEIPTS, LIMITS, Usage())
    assert trial.balanced
    assert trial.frames == trial.played == 10
    assert trial.end_to_end_ms == pytest.approx((5.0, 25.0, 20.0))  # stamps 2, 3, 4 never came out
    assert not trial.passed, "a tenth may be lost, and three of ten are"


@pytest.mark.parametrize(
    ("accounts", "receipts"),
    [
        (ACCOUNTS, RECEIPTS[:2]),  # an embedding did not arrive
        (ACCOUNTS, [*RECEIPTS, receipt(8, 95)]),  # one of another encoder did
        (replace(ACCOUNTS, received=12), RECEIPTS),  # others play, too
        (replace(ACCOUNTS, dropped={"overflow": 2}), RECEIPTS),  # a frame is still pending
    ],
)
def test_accounts_that_do_not_balance_say_so(accounts, receipts):
    assert not score(played(10), accounts, receipts, LIMITS, Usage()).balanced


@pytest.mark.parametrize(
    ("dropped", "latency_ms", "passed"),
    [
        ({"overflow": 2}, 5, True),
        ({"overflow": 4}, 5, False),
        ({"late": 4}, 5, False),
        ({"encoder_error": 4}, 5, False),
        ({"rate": 4}, 5, True),  # not sampled is as configured
        ({"undecodable": 2, "partner": 2}, 5, True),  # the camera's fault
        ({}, 150, False),
    ],
)
def test_encoder_keeps_up_within_limits(dropped, latency_ms, passed):
    used = 20 - sum(dropped.values())
    receipts = [receipt(2 * i + 1, 20 * i + 10 + latency_ms) for i in range(used // 2)]
    trial = score(played(20), Accounts(received=20, used=used, dropped=dropped), receipts, LIMITS, Usage())
    assert (trial.balanced, trial.passed) == (True, passed)


def test_trial_without_embeddings_did_not_keep_up():
    trial = score(played(10), Accounts(received=10, dropped={"reset": 10}), [], LIMITS, Usage())
    assert (trial.passed, trial.arrivals, trial.end_to_end_ms) == (False, (), ())


def test_pairs_are_of_one_topic_and_of_what_was_played():
    both = played(4, ("/a", "/b"))
    receipts = [receipt(3, 50, "/b"), receipt(3, 60, "/a"), receipt(9, 70, "/a"), receipt(3, 80, "/c")]
    assert pair(both, receipts) == (Arrival("/b", 0.03, 0.05), Arrival("/a", 0.03, 0.06))


@pytest.mark.parametrize(("counted", "passed"), [(10, True), (9, False), (11, False)])
def test_player_alone_passes_if_nothing_is_lost(counted, passed):
    trial = score_count(played(10), counted, Usage())
    assert trial.passed == passed
    assert trial.balanced == (counted <= 10)
