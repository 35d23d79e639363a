"""Modes of a replay benchmark: what is played, how fast, and what counts as keeping up."""

from dataclasses import dataclass

from saccade_ros.knobs import ConfigError, Settings, knob
from saccade_ros.recordings.source import BEST_EFFORT, RELIABLE
from saccade_ros.replay.schedule import BURST, FIXED, RECORDED, Schedule
from saccade_ros.replay.scoring import Limits

PEAK, STEPS = "peak", "steps"
OWN, EXTERNAL = "own", "external"
AS_RECORDED = "recorded"
_TRIAL_S = {RECORDED: 0.0, PEAK: 10.0}  # of a peak longer, as luck would else decide over 2 % of the frames


@dataclass(frozen=True)
class PlayOptions(Settings):
    """Play of a recording into the encoder's node: its options."""

    mode: str = knob(
        RECORDED,
        "'recorded' plays images as far apart as they were recorded, 'fixed' at --hz, 'steps' at each of --hz in turn, "
        "'burst' several at once, and 'peak' searches the highest rate at which the encoder keeps up.",
        choices=(RECORDED, FIXED, PEAK, STEPS, BURST),
    )
    rate: float = knob(1.0, "Mode recorded: factor of the recording's own speed.", at_least=0.001, at_most=1000.0)
    hz: tuple[float, ...] = knob(
        (),
        "Images per second and topic: one for mode fixed, several for steps; the first guess of peak (none: the "
        "recording's own rate).",
        at_least=0.001,
        at_most=20_000.0,
    )
    seconds: float = knob(
        0.0,
        "Length of a trial, in which the recording is repeated as often as it takes. 0: the recording once in mode "
        "recorded, 10 s in mode peak, 5 s in others.",
        at_least=0.0,
        at_most=1e6,
    )
    burst: int = knob(10, "Mode burst: images of each topic at once.", at_least=1, at_most=100_000)
    burst_every_s: float = knob(1.0, "Mode burst: seconds from burst to burst.", at_least=0.001, at_most=3600.0)
    tolerance: float = knob(0.05, "Mode peak: ratio, less 1, that the peak is found to.", at_least=0.005, at_most=1.0)
    max_loss: float = knob(
        0.02,
        "Share of lost, replaced, late and failed frames with which the encoder keeps up.",
        at_least=0.0,
        at_most=1.0,
    )
    max_latency_ms: float = knob(
        500.0, "p99 from an image sent to its embedding received that is still keeping up.", at_least=0.001
    )
    sampled: bool = knob(
        False, "Modes but recorded: keep stream.fps of the parameters; else it is 0, every image, and so recorded."
    )
    reliability: str = knob(
        AS_RECORDED,
        "QoS of the images: as recorded (reliable where the recording does not say), or overridden, in the player and "
        "in the node's subscription.",
        choices=(AS_RECORDED, RELIABLE, BEST_EFFORT),
    )
    encoder: bool = knob(True, "False plays to a subscriber that only counts: a check of the player alone.")
    player: str = knob(
        OWN,
        "'external': the images are played by others, such as `ros2 bag play`, until none has come for 3 s; SOURCE is "
        "what they play.",
        choices=(OWN, EXTERNAL),
    )
    memory_mb: int = knob(
        1024, "Recordings larger than this are read ahead of the player instead of kept in memory.", at_least=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode == FIXED and len(self.hz) != 1:
            raise ConfigError(f"mode fixed with --hz {list(self.hz)}: give one rate, such as --hz 30")
        if self.mode == STEPS and not self.hz:
            raise ConfigError("mode steps without rates: give some, such as --hz 10 20 40 80")
        if self.player == EXTERNAL and (self.mode != RECORDED or not self.encoder):
            raise ConfigError(f"--player external with mode {self.mode}: only mode recorded, with the encoder, can be")
        if self.mode == PEAK and not self.encoder:
            raise ConfigError(
                "mode peak without the encoder: check the player with mode fixed or steps, and a high --hz"
            )

    @property
    def every_image(self) -> bool:
        """True if stream.fps is set to 0."""
        return self.mode != RECORDED and not self.sampled

    @property
    def limits(self) -> Limits:
        """Limits within which the encoder keeps up."""
        return Limits(self.max_loss, self.max_latency_ms)

    @property
    def trial_s(self) -> float:
        """Length of a trial; 0 for the recording once."""
        return self.seconds or _TRIAL_S.get(self.mode, 5.0)

    def at(self, hz: float) -> Schedule:
        """Schedule of a trial at a fixed rate."""
        return Schedule(FIXED, hz, seconds=self.trial_s)

    @property
    def schedules(self) -> list[Schedule]:
        """Schedules of all trials, of every mode but peak."""
        if self.mode == RECORDED:
            return [Schedule(RECORDED, self.rate, seconds=self.seconds)]
        if self.mode == BURST:
            return [Schedule(BURST, 1 / self.burst_every_s, self.burst, self.trial_s)]
        return [self.at(hz) for hz in self.hz]
