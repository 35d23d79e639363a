"""The bench of decoding times both ways to the same input."""

from saccade_ros.measure.progress import silent
from saccade_ros.studies import decoding


def test_every_size_and_form_has_a_row_and_only_jpegs_may_differ(monkeypatch):
    monkeypatch.setattr(decoding, "SIZES", {"small": (120, 160)})
    record = decoding.run(decoding.Options(input_size=32, rounds=1, fit="stretch"), silent)
    assert [row["form"] for row in record["rows"]] == list(decoding.FORMS)
    for row in record["rows"]:
        assert min(row["whole_ms"], row["tubelet_ms"], row["decode_ms"], row["normalize_ms"]) > 0
        assert row["levels_apart_max"] == 0 or row["form"] == "jpeg"
        assert row["levels_apart_mean"] < 1
        assert row["form"] in decoding.table(record)
