"""Scoring of a trial: every frame in one class, and images and embeddings paired by topic and stamp."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from saccade_ros.measure.usage import Usage
from saccade_ros.replay.played import Played
from saccade_ros.replay.recording import EmbeddingRow
from saccade_ros.replay.trial import (
    COUNTED,
    DENSE,
    GATED,
    LOST,
    MALFORMED,
    NOT_SAMPLED,
    OTHER,
    REPLACED,
    SPARSE,
    Arrival,
    Trial,
)
from saccade_ros.vision.ledger import Accounts
from saccade_ros.vision.malformed import CAUSES as MALFORMED_CAUSES

FRAMES = 2  # of a tubelet
FAILED = (LOST, REPLACED, f"{OTHER}late", f"{OTHER}encoder_error")  # classes of frames that the encoder did not manage
_CLASS_OF = {"overflow": REPLACED, "rate": NOT_SAMPLED, **{cause: MALFORMED + cause for cause in MALFORMED_CAUSES}}


class Receipt(NamedTuple):
    """An embedding received, and when, on the monotonic clock."""

    row: EmbeddingRow
    received_ns: int


@dataclass(frozen=True)
class Limits:
    """Limits within which the encoder keeps up: share of frames FAILED, p99 from image sent to embedding received."""

    loss_share: float
    latency_ms: float


def score(played: Played, accounts: Accounts, receipts: Sequence[Receipt], limits: Limits, usage: Usage) -> Trial:
    """Make the trial.

    Args:
        accounts: what the encoder's node counted during it, all topics together.
    """
    classes = classify(played.count, accounts, [receipt.row for receipt in receipts])
    arrivals = pair(played, receipts)
    end_to_end_ms = tuple((arrival.received_s - arrival.sent_s) * 1e3 for arrival in arrivals)
    total = max(1, played.count)
    lost_share = sum(classes.get(name, 0) for name in FAILED) / total
    in_time = bool(end_to_end_ms) and float(np.percentile(end_to_end_ms, 99)) <= limits.latency_ms
    return Trial(
        **_of_player(played),
        passed=in_time and lost_share <= limits.loss_share,
        classes=classes,
        latency_ms=tuple(receipt.row.total_ms for receipt in receipts),
        end_to_end_ms=end_to_end_ms,
        arrivals=arrivals,
        **vars(usage),
    )


def score_count(played: Played, counted: int, usage: Usage) -> Trial:
    """Make the trial of the player alone, of whose images a subscriber counted so many."""
    classes = {COUNTED: counted, LOST: max(0, played.count - counted)}
    return Trial(**_of_player(played), passed=counted == played.count, classes=classes, **vars(usage))


def _of_player(played: Played) -> dict[str, Any]:
    return {
        "offered_hz": played.offered_hz,
        "played_hz": played.played_hz,
        "held": played.held,
        "seconds": played.seconds,
        "lateness": played.lateness,
        "played": played.count,
    }


def classify(played: int, accounts: Accounts, rows: Sequence[EmbeddingRow]) -> dict[str, int]:
    """Put every frame in one class: those in embeddings by these, the others by what the node counted.

    Where the sum is not `played`, an embedding or a count is missing, or others play or encode on the same graph.
    """
    classes = Counter({LOST: max(0, played - accounts.received)})
    for cause, count in accounts.dropped.items():
        classes[_CLASS_OF.get(cause, OTHER + cause)] += count
    for row in rows:
        classes[class_of(row)] += FRAMES
    return {name: count for name, count in sorted(classes.items()) if count}


def class_of(row: EmbeddingRow) -> str:
    """Class of the frames of an embedding."""
    if not row.encoded:
        return GATED
    return SPARSE if row.tokens_computed < row.tokens else DENSE


def pair(played: Played, receipts: Sequence[Receipt]) -> tuple[Arrival, ...]:
    """Pair the embeddings, in the order received, with the images whose topic and stamp they carry."""
    sent_ns = played.sent_by_name()
    start_ns = min(sent_ns.values(), default=0)
    return tuple(
        Arrival(row.stream, (sent_ns[row.stream, row.stamp_ns] - start_ns) / 1e9, (received_ns - start_ns) / 1e9)
        for row, received_ns in receipts
        if (row.stream, row.stamp_ns) in sent_ns
    )
