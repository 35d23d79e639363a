"""The verdict on a stream: the gravest trouble is named, with its count, an example and a remedy."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade_ros.verdict import (
    RESETS,
    EmptyResultError,
    Evidence,
    Level,
    Sender,
    judge,
    require_tubelets,
)
from saccade_ros.vision.ledger import DROP_CAUSES, Accounts
from saccade_ros.vision.malformed import CAUSES as MALFORMED_CAUSES

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


def evidence(received: int = 40, tubelets: int = 20, silence: str = "", **others) -> Evidence:
    names = ("dropped", "resets", "lost", "details", "pending")
    frames = Accounts(received, **{name: others.pop(name) for name in names if name in others})
    return Evidence("/cam", frames, tubelets, silence, type=IMAGE, **others)


def test_nothing_is_said_of_a_stream_that_works():
    assert judge(evidence()) == (Level.OK, "", "")
    assert judge(evidence(received=300, dropped={"rate": 260}, senders=(Sender("/driver", IMAGE),))).level == Level.OK


@pytest.mark.parametrize(
    ("known", "kind", "says"),
    [
        ({"dropped": {"stale_stamp": 39}, "details": {"stale_stamp": "0 s after 0 s"}}, "stale_stamp", "(0 s aft"),
        ({"dropped": {"stale_stamp": 39}}, "stale_stamp", "header.stamp"),
        ({"underestimated": True}, "loss_underestimated", "saccade calibrate"),
        ({"dropped": {"unknown_encoding": 40}, "details": {"unknown_encoding": "16UC1"}}, "unknown_encoding", "16UC1"),
        ({"dropped": {"undecodable": 20, "partner": 20}}, "undecodable", "corrupt"),
        ({"resets": {"gap": 39}, "dropped": {"reset": 39}}, "resets.gap", "raise stream.max_gap_s"),
        ({"resets": {"source_change": 39}, "dropped": {"reset": 39}}, "resets.source_change", "topic of its own"),
        ({"resets": {"time_jump": 20, "gap": 19}}, "resets.time_jump", "two clocks"),
        ({"resets": {"time_jump": 30}}, "resets.time_jump", "one clock"),
        ({"resets": {"request": 400}}, "resets.request", "~/reset"),
        ({"dropped": {"overflow": 28}}, "overflow", "lower stream.fps"),
        ({"dropped": {"late": 2}, "details": {"late": "12 s after its picture"}}, "late", "12 s after its picture"),
        ({"lost": 60}, "lost", "60 of 100 images"),
        ({"lost": 60}, "lost", "qos_overrides./cam.subscription.reliability to reliable"),
        ({"lost": 60}, "lost", "net.core.rmem_max"),
        ({"senders": (Sender("/a", IMAGE), Sender("/b", IMAGE))}, "several_publishers", "(/a, /b)"),
        ({"senders": (Sender("/a", IMAGE), Sender("/b", COMPRESSED))}, "wrong_type", f"{COMPRESSED} by /b"),
        ({"senders": (Sender("/a", IMAGE, "best effort"),)}, "incompatible_qos", "best effort"),
    ],
)  # fmt: skip
def test_each_trouble_is_a_warning_with_its_remedy(known, kind, says):
    verdict = judge(evidence(**known))
    assert (verdict.level, verdict.kind) == (Level.WARN, kind)
    assert says in verdict.sentence


@pytest.mark.parametrize(
    ("known", "kind"),
    [
        ({"dropped": {"encoder_error": 2}, "details": {"encoder_error": "ValueError: NaN"}}, "encoder_error"),
        ({"busy_s": 11.0, "max_busy_s": 10.0}, "encoder_hangs"),
        ({"dead": "SystemExit"}, "encoder_dead"),
    ],
)
def test_failure_of_the_encoder_is_an_error_before_all_else(known, kind):
    verdict = judge(evidence(**known, lost=1000))
    assert (verdict.level, verdict.kind) == (Level.ERROR, kind)


@pytest.mark.parametrize(
    "known",
    [
        {"resets": {"time_jump": 2}},
        {"resets": {"gap": 4}},
        {"lost": 4},
        {"dropped": {"overflow": 4}},
        {"busy_s": 2.0, "max_busy_s": 10.0},
        {"resets": {"deactivated": 40, "end": 1}},
        {"dropped": {"inactive": 30, "reset": 1}, "pending": 1},
    ],
)
def test_what_is_usual_or_rare_is_no_trouble(known):
    assert judge(evidence(**known)).level == Level.OK


def test_share_that_is_tolerated_can_be_set():
    assert judge(evidence(dropped={"overflow": 12})).kind == "overflow"
    assert judge(evidence(dropped={"overflow": 12}, loss_share=0.5)).level == Level.OK


def test_share_is_of_the_images_that_were_sampled():
    """A camera at 30 Hz of which 4 are taken: 3 of these 4 lost to a slow encoder are three quarters."""
    verdict = judge(evidence(received=300, dropped={"rate": 260, "overflow": 28}))
    assert verdict.sentence.startswith("28 of 40 sampled images")


@pytest.mark.parametrize(
    ("known", "kind", "says"),
    [
        ({"received": 0}, "no_image", "no image on /cam"),
        (
            {"received": 0, "senders": (Sender("/driver", IMAGE),)},
            "no_image",
            "/driver is there to publish /cam, and nothing arrives",
        ),
        ({"received": 0, "senders": (Sender("/driver", COMPRESSED),)}, "wrong_type", COMPRESSED),
        ({"received": 0, "senders": (Sender("/driver", IMAGE, "durability"),)}, "incompatible_qos", "durability"),
        ({"received": 0, "lost": 10}, "lost", "10 of 10 images"),
        ({"received": 1, "pending": 1}, "too_few", "1 image came"),
        ({"received": 2, "dropped": {"reset": 2}}, "too_few", "2 images came"),
        ({"received": 9, "dropped": {"rate": 8}}, "rate", "set it higher"),
        ({"received": 3, "resets": {"gap": 2}}, "resets.gap", "max_gap_s"),
        ({"dropped": {"undecodable": 2, "stale_stamp": 30}}, "stale_stamp", "30 of 40"),
        ({"busy_s": 4.0, "max_busy_s": 10.0}, "encoder_slow", "4.0 s"),
    ],
)
def test_silence_is_explained_by_what_took_most(known, kind, says):
    verdict = judge(evidence(tubelets=0, silence="no embedding for 5 s", **known))
    assert (verdict.level, verdict.kind) == (Level.WARN, kind)
    assert verdict.sentence.startswith("no embedding for 5 s: ")
    assert says in verdict.sentence


def test_empty_recording_is_refused_with_the_cause():
    frames = Accounts(10, dropped={"unknown_encoding": 10}, details={"unknown_encoding": "16UC1 is a depth image"})
    with pytest.raises(EmptyResultError, match=r"nothing came of depth.mcap: 10 of 10 .*16UC1 is a depth image"):
        require_tubelets("depth.mcap", "/depth", frames, 0)


def test_recording_of_which_something_came_is_judged_as_a_stream():
    assert require_tubelets("a.mcap", "/cam", Accounts(40), 20).level == Level.OK
    assert require_tubelets("a.mcap", "/cam", Accounts(40, resets={"gap": 10}), 20).kind == "resets.gap"


counts = st.integers(0, 10**6)


@given(
    received=counts,
    tubelets=counts,
    dropped=st.dictionaries(st.sampled_from(sorted(DROP_CAUSES)), counts),
    resets=st.dictionaries(st.sampled_from([*RESETS, "deactivated", "end"]), counts),
    lost=counts,
    senders=st.lists(st.builds(Sender, st.text(), st.sampled_from([IMAGE, COMPRESSED]), st.text())).map(tuple),
    busy_s=st.floats(0, 100),
    max_busy_s=st.sampled_from([1.0, math.inf]),
    silence=st.sampled_from(["", "no embedding for 5 s"]),
)
def test_any_counts_get_one_line_and_silence_is_never_ok(**known):
    """Also counts that a moment between two threads makes look impossible."""
    verdict = judge(evidence(**known))
    assert (verdict.level == Level.OK) == (verdict.sentence == "") == (verdict.kind == "")
    if known["silence"] or any(known["dropped"].get(cause) for cause in MALFORMED_CAUSES):
        assert verdict.level > Level.OK
