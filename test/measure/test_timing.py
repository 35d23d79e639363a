"""Calls take turns, as often as asked, and nothing of it is lost."""

from saccade_ros.measure.timing import interleave, spread


def test_calls_take_turns_in_every_round():
    called: list[str] = []
    calls = {name: lambda name=name: called.append(name) for name in "ab"}
    times_ms = interleave(calls, rounds=3)
    assert called == ["a", "b"] * 3
    assert {name: len(times) for name, times in times_ms.items()} == {"a": 3, "b": 3}
    assert min(min(times) for times in times_ms.values()) >= 0


def test_a_call_is_repeated_within_its_round():
    called: list[str] = []
    calls = {name: lambda name=name: called.append(name) for name in "ab"}
    times_ms = interleave(calls, rounds=2, repeats={"b": 3})
    assert "".join(called) == "abbb" * 2
    assert len(times_ms["b"]) == 6


def test_what_a_call_started_elsewhere_is_waited_for():
    events: list[str] = []
    interleave({"a": lambda: events.append("call")}, 2, synchronize=lambda: events.append("wait"))
    assert events == ["wait", "call", "wait"] * 2


def test_progress_ends_with_the_whole():
    told: list[float] = []
    interleave({"a": lambda: None}, 4, progress=lambda what, fraction: told.append(fraction))
    assert told == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_spread_by_hand():
    assert spread([3.0, 1.0, 10.0, 2.0])._asdict() == {"median": 2.5, "min": 1.0, "max": 10.0, "runs": 4}
