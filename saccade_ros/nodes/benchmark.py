"""Benchmark of an encoder node: configured once for every trial of the mode, and once again, warm."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from saccade_ros.nodes.player_client import PlayerClient
from saccade_ros.nodes.trial_node import TrialNode
from saccade_ros.replay.live import trial_line
from saccade_ros.replay.modes import PEAK, PlayOptions
from saccade_ros.replay.schedule import FIXED, RECORDED, Schedule
from saccade_ros.replay.search import PeakSearch
from saccade_ros.replay.trial import Benchmark, Trial

CHECK_FACTOR = 3.0  # of the peak, at which the player alone must lose nothing
WARM_UP = Schedule(FIXED, 10.0, seconds=2.0)
_PLAIN = (bool, int, float, str)


@dataclass(frozen=True)
class BenchmarkRun:
    """Run of a benchmark, whose methods raise ReplayError and PlayerError where a process ends or does not answer.

    Args:
        node: that makes the trials; its recording is that of the last one.
        play: what is played how.
        tell: shown a line for each trial.
    """

    node: TrialNode
    play: PlayOptions
    tell: Callable[[str], object]

    def of_player(self, player: PlayerClient) -> Benchmark:
        """Make the trials of the mode."""
        configure_s = [self._configure()]
        if self.play.mode == RECORDED:
            return self._benchmark([self._trial(player, self.play.schedules[0])], configure_s)
        # What is slow for the first time only, such as memory never touched, is in no trial.
        self.node.trial(player, WARM_UP)
        if self.play.mode == PEAK:
            return self._search(player, configure_s)
        trials = [self._trial(player, schedule) for schedule in self.play.schedules]
        return self._benchmark(trials, [*configure_s, self._configure_again()])

    def of_others(self) -> Benchmark:
        """Make one trial of what others play."""
        configure_s = [self._configure()]
        self.tell("waiting for the images of another player")
        trials = [self.node.witness()]
        remark = "played by others: how late they were is not known"
        return replace(self._benchmark(trials, configure_s), remark=remark)

    def _search(self, player: PlayerClient, configure_s: list[float]) -> Benchmark:
        search = PeakSearch(lambda hz: self._trial(player, self.play.at(hz)), self.play.tolerance)
        search.find(next(iter(self.play.hz), player.recorded_hz))
        configure_s.append(self._configure_again())
        self.node.encoder.cleanup()  # the player alone has only the subscriber that counts
        check = None
        if search.peak_hz is not None:
            check = self.node.count(player, self.play.at(CHECK_FACTOR * search.peak_hz))
            self.tell(f"player alone: {trial_line(check)}")
        found = self._benchmark(search.trials, configure_s)
        return replace(found, peak_hz=search.peak_hz, check=check, remark=search.remark)

    def _trial(self, player: PlayerClient, schedule: Schedule) -> Trial:
        trial = self.node.trial(player, schedule)
        self.tell(trial_line(trial))
        return trial

    def _configure(self) -> float:
        self.node.encoder.find()
        return self.node.encoder.configure()

    def _configure_again(self) -> float:
        self.node.encoder.cleanup()
        return self.node.encoder.configure()

    def _benchmark(self, trials: list[Trial], configure_s: list[float]) -> Benchmark:
        settings = {
            name: value if isinstance(value, _PLAIN) else str(value) for name, value in asdict(self.play).items()
        }
        first_s = self.node.first_embedding_s
        return Benchmark(
            self.play.mode, settings, tuple(trials), configure_s=tuple(configure_s), first_embedding_s=first_s
        )
