"""Verdict on a stream: one sentence that says what is wrong with its images, and the remedy.

The counts of a whole recording, or of a camera's last seconds, are turned into troubles, each with the share of the
images that it took. The verdict is the gravest; where nothing came out at all, the one that took most. Replay,
calibration, /diagnostics and the log use it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from saccade_ros.vision.ledger import DROP_CAUSES, Accounts
from saccade_ros.vision.malformed import CAUSES as MALFORMED_CAUSES

LOSS_SHARE = 0.1  # of the images, which lost, overflowing or reset ones may make up unless told otherwise
BUSY_S = 1.0  # with one tubelet explains a silence
FEW = 3  # so few are no sign of anything yet, whatever their share


class EmptyResultError(ValueError):
    """Nothing came out of a recording. The message is the verdict."""


class Level(IntEnum):
    """Gravity of a verdict; the values are those of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2


class Verdict(NamedTuple):
    """Level, the kind of the trouble as a word for programs ("" if there is none), and the sentence for people."""

    level: Level
    kind: str
    sentence: str


@dataclass(frozen=True)
class Sender:
    """A publisher of a stream's topic.

    Attributes:
        name: of its node.
        type: of its messages, such as sensor_msgs/msg/Image.
        mismatch: why its QoS and the subscription's cannot meet; empty if they can.
    """

    name: str
    type: str
    mismatch: str = ""


@dataclass(frozen=True)
class Evidence:
    """Evidence of how a stream fared over a stretch of it.

    Attributes:
        topic: its name, for the sentence.
        frames: what became of the images that came in that stretch.
        tubelets: embeddings that came out.
        silence: what has not come, in words; empty while something comes out.
        type: of the messages that are subscribed to.
        senders: publishers of the topic, as far as they are known.
        busy_s: how long the tubelet in hand has been decoded and encoded; 0 if there is none.
        max_busy_s: how long that may take, node.max_latency_s.
        dead: why nothing will be encoded any more; empty while the encoder lives.
        loss_share: share of lost, overflowing or reset images that is not worth a word.
        underestimated: True if reuse costs more than the gate may correct its prediction by (plan/loss_scale.py).
    """

    topic: str
    frames: Accounts
    tubelets: int
    silence: str = ""
    type: str = ""
    senders: tuple[Sender, ...] = ()
    busy_s: float = 0.0
    max_busy_s: float = float("inf")
    dead: str = ""
    loss_share: float = LOSS_SHARE
    underestimated: bool = False


class _Trouble(NamedTuple):
    """Finding on a stream: so many of so many images, and whether it counts while embeddings come out."""

    kind: str
    share: float
    text: str
    counts: bool = True
    level: Level = Level.WARN


def judge(evidence: Evidence) -> Verdict:
    """Turn all that is known of a stream into one sentence with its remedy.

    Returns:
        Level OK and no sentence if all is well. ERROR is the encoder's failure, WARN everything else.
    """
    troubles = [*_of_encoder(evidence), *_of_images(evidence), *_of_resets(evidence), *_of_losses(evidence)]
    troubles += _of_senders(evidence)
    if evidence.silence:
        troubles.append(_of_silence(evidence))
    else:
        troubles = [trouble for trouble in troubles if trouble.counts]
    if not troubles:
        return Verdict(Level.OK, "", "")
    worst = max(troubles, key=lambda trouble: (trouble.level, trouble.share))
    prefix = f"{evidence.silence}: " if evidence.silence else ""
    return Verdict(worst.level, worst.kind, prefix + worst.text)


def judge_recording(name: str, topic: str, frames: Accounts, tubelets: int) -> Verdict:
    """Judge a recording that was read to its end."""
    return judge(Evidence(topic, frames, tubelets, "" if tubelets else f"nothing came of {name}"))


def require_tubelets(name: str, topic: str, frames: Accounts, tubelets: int) -> Verdict:
    """Judge a recording that was read to its end; raise EmptyResultError, which says why, if nothing came of it."""
    verdict = judge_recording(name, topic, frames, tubelets)
    if not tubelets:
        raise EmptyResultError(verdict.sentence)
    return verdict


def _of_encoder(evidence: Evidence) -> Iterator[_Trouble]:
    frames, busy_s = evidence.frames, evidence.busy_s
    if evidence.dead:
        yield _Trouble("encoder_dead", 1.0, f"the encoder is dead ({evidence.dead}): {_RESTART}", level=Level.ERROR)
    busy = f"one tubelet has been in the encoder's hands for {busy_s:.1f} s"
    if busy_s > evidence.max_busy_s:
        text = f"{busy}, longer than node.max_latency_s ({evidence.max_busy_s:g} s): {_RESTART}"
        yield _Trouble("encoder_hangs", 1.0, text, level=Level.ERROR)
    elif busy_s > BUSY_S:
        yield _Trouble("encoder_slow", 1.0, busy, counts=False)
    if evidence.underestimated:
        text = (
            "reusing embeddings costs four times what the gate predicts, or more, so that gate.tau promises too much: "
            "run `saccade calibrate` with this encoder on recordings of this place"
        )
        yield _Trouble("loss_underestimated", 0.0, text)
    if failed := frames.dropped.get("encoder_error", 0):
        why = frames.details.get("encoder_error", "see the log")
        text = f"the encoder failed on {failed} of {frames.received} images ({why}): the log has the traceback"
        yield _Trouble("encoder_error", _share(failed, frames.received), text, level=Level.ERROR)


_RESTART = "restart the node, and look at the GPU or CPU and the log"


def _of_images(evidence: Evidence) -> Iterator[_Trouble]:
    """Images that could not be used, each cause by itself."""
    frames = evidence.frames
    for cause in MALFORMED_CAUSES:
        if count := frames.dropped.get(cause, 0):
            why = frames.details.get(cause, DROP_CAUSES[cause].removeprefix("malformed: "))
            text = f"{count} of {frames.received} images are refused as {cause} ({why})"
            yield _Trouble(cause, _share(count, frames.received), text)
    if stale := frames.dropped.get("stale_stamp", 0):
        text = (
            f"{stale} of {frames.received} images are stamped no later than the one before"
            f"{_example(frames, 'stale_stamp')}: let the driver set header.stamp to the time of exposure, and let "
            "nobody publish an image twice"
        )
        yield _Trouble("stale_stamp", _share(stale, frames.received), text)


RESETS = {
    "time_jump": ("stamps that jump back", "let all cameras use one clock; a bag that loops does this once a turn"),
    "gap": ("gaps longer than stream.max_gap_s", "raise stream.max_gap_s, or publish more often"),
    "source_change": (
        "changes of frame_id or image size",
        "give each camera a topic of its own, and one frame_id and size",
    ),
    "request": ("calls of ~/reset", "call it less often than two images take at stream.fps"),
}


def _of_resets(evidence: Evidence) -> Iterator[_Trouble]:
    """Streams that start afresh more often than their loss share: half a tubelet and the whole window go each time."""
    frames = evidence.frames
    resets = {reason: frames.resets.get(reason, 0) for reason in RESETS}
    total, sampled = sum(resets.values()), _sampled(frames)
    if not total:
        return
    reason = max(resets, key=lambda reason: resets[reason])
    what, remedy = RESETS[reason]
    if min(resets["time_jump"], resets["gap"]) > total / 4:
        reason, what = "time_jump", "stamps that jump to and fro"
        remedy = "two cameras on one topic, or two clocks: give each camera a topic, and all machines one clock"
    why = f"{what}{_example(frames, reason)}"
    text = f"the stream started afresh {total} times in {_images(sampled)}, by {why}: {remedy}{_who(evidence.senders)}"
    many = total >= FEW and total > evidence.loss_share * sampled
    yield _Trouble(f"resets.{reason}", _share(total, sampled), text, many)


def _of_losses(evidence: Evidence) -> Iterator[_Trouble]:
    """Good images that were not encoded, because they were too many or never came in."""
    frames, share = evidence.frames, evidence.loss_share
    overflow, sampled = frames.dropped.get("overflow", 0), _sampled(frames)
    if overflow:
        text = (
            f"{overflow} of {sampled} sampled images came faster than they were encoded: lower stream.fps, or make "
            "the encoder faster (backend.precision, a GPU, a smaller model, fewer cameras)"
        )
        yield _Trouble("overflow", _share(overflow, sampled), text, overflow >= FEW and overflow > share * sampled)
    if late := frames.dropped.get("late", 0):
        text = f"the embeddings of {late} of {sampled} sampled images came too late{_example(frames, 'late')}"
        yield _Trouble("late", _share(late, sampled), text)
    sent = frames.lost + frames.received
    if frames.lost:
        text = (
            f"{frames.lost} of {sent} images were lost before they got here: set qos_overrides.{evidence.topic}."
            "subscription.reliability to reliable and its depth to 10 or more, raise the sockets' buffers (sysctl "
            "net.core.rmem_max), or send compressed images; a message that breaks its serialization is lost, too"
        )
        yield _Trouble("lost", frames.lost / sent, text, frames.lost >= FEW and frames.lost > share * sent)


def _of_senders(evidence: Evidence) -> Iterator[_Trouble]:
    """Troubles of the topic by the graph; they rank last while images come in, as their counts say more."""
    senders, share = evidence.senders, 0.0 if evidence.frames.received else 0.5
    others = [sender for sender in senders if evidence.type and sender.type != evidence.type]
    if others:
        listed = ", ".join(f"{sender.type} by {sender.name}" for sender in others)
        text = f"{evidence.topic} is published as {listed}, and {evidence.type} is subscribed to: correct node.topics"
        yield _Trouble("wrong_type", share, text)
    for sender in senders:
        if sender.mismatch:
            text = (
                f"the QoS of {sender.name} does not fit ({sender.mismatch}): correct qos_overrides.{evidence.topic}."
                "subscription, or the publisher"
            )
            yield _Trouble("incompatible_qos", share, text)
    if len(senders) > 1:
        text = f"{len(senders)} publishers share {evidence.topic}{_who(senders)}: give each camera a topic of its own"
        yield _Trouble("several_publishers", 0.0, text)


def _of_silence(evidence: Evidence) -> _Trouble:
    """Least that can be said when nothing comes out; any other trouble wins."""
    frames, senders, topic = evidence.frames, evidence.senders, evidence.topic
    if frames.received > 2 and _sampled(frames) <= 2:
        text = f"all {frames.received} images lie within one period of stream.fps: set it higher, or 0 for every image"
        return _Trouble("rate", 0.1, text)
    if frames.received:
        return _Trouble("too_few", -1.0, f"{_images(frames.received)} came, and two sampled ones make a tubelet")
    if senders:
        text = (
            f"{senders[0].name} is there to publish {topic}, and nothing arrives: is the camera running? Images that "
            "are larger than the sockets' buffers, or broken, are lost without a word"
        )
        return _Trouble("no_image", -1.0, text)
    return _Trouble("no_image", -1.0, f"there is no image on {topic}: was the camera running, is the topic right?")


def _sampled(frames: Accounts) -> int:
    """Images that stream.fps did not leave out."""
    return frames.received - frames.dropped.get("rate", 0) - frames.dropped.get("inactive", 0)


def _share(count: int, of: int) -> float:
    """Share of the images; those that a stretch counts may have come in before it began."""
    return min(1.0, count / max(1, of))


def _images(count: int) -> str:
    return f"{count} image{'s' * (count != 1)}"


def _example(frames: Accounts, cause: str) -> str:
    return f" ({frames.details[cause]})" if cause in frames.details else ""


def _who(senders: tuple[Sender, ...]) -> str:
    return f" ({', '.join(sender.name for sender in senders)})" if len(senders) > 1 else ""
