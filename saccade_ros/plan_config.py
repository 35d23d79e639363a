"""Settings of the plan, what to compute of each tubelet: the gate's and the token selection's."""

from dataclasses import dataclass
from typing import ClassVar

from saccade_ros.knobs import ConfigError, Settings, knob


@dataclass(frozen=True)
class GateConfig(Settings):
    """Choice of the tubelets that are encoded; for the others the last embedding is reused."""

    prefix: ClassVar[str] = "gate"

    enabled: bool = knob(True, "False encodes every tubelet and measures no novelty.")
    policy: str = knob(
        "predicted",
        "Measure of novelty: 'predicted' is the loss of fidelity that reusing the last embedding would cost. The "
        "others are simple and stand for comparison: 'pixels', the mean difference of grey levels to the last encoded "
        "picture, as a share of white; 'previous', the relative change of patches since the previous tubelet; 'even', "
        "the seconds since the last encoded one.",
        choices=("predicted", "pixels", "previous", "even"),
    )
    tau: float = knob(
        0.02,
        "Novelty at or above which a tubelet is encoded. With gate.policy predicted a loss: 0.02 means that reuse may "
        "cost 2 %, that is, that 19 of 20 reused embeddings should keep a centred cosine of 0.98 to the fresh one. "
        "0 encodes everything. `saccade calibrate` finds the value for your recordings. With tokens.select it "
        "decides nothing but in budget mode: the tokens that changed are computed whatever it is.",
        at_least=0.0,
        at_most=100.0,
        live=True,
    )
    loss_per_change: float = knob(
        0.12,
        "Policy predicted: loss expected for each unit of relative change of the encoder's window, for this encoder. "
        "Fitted to the default model; `saccade calibrate` fits it to another. The running gate corrects it by up to a "
        "factor of four, by what its own encodes tell.",
        at_least=1e-6,
        at_most=100.0,
    )
    event_change: float = knob(
        0.4,
        "An event on ~/event begins, and is encoded whole, when the relative change of the most changed patches since "
        "the previous tubelet exceeds that of the median patch by this after a second of calm.",
        at_least=0.0,
        at_most=10.0,
        live=True,
    )
    top_fraction: float = knob(
        0.03, "Fraction of the patches, the most changed ones, that an event is told by.", at_least=0.0, at_most=1.0
    )
    hysteresis: float = knob(
        0.5,
        "An event is over when its change has stayed below this fraction of gate.event_change for a second.",
        at_least=0.0,
        at_most=1.0,
    )
    max_skip_s: float = knob(
        10.0,
        "Seconds of header time after which a tubelet is encoded even if nothing changed. 0 never.",
        at_least=0.0,
        at_most=86400.0,
        live=True,
    )
    mode: str = knob(
        "fixed",
        "Source of the threshold: 'fixed' is gate.tau, 'budget' moves it so that the encodes hold the budget.",
        choices=("fixed", "budget"),
    )
    budget_fraction: float = knob(
        0.25,
        "Budget mode: fraction of all tokens to compute; with tokens.select all, of the tubelets to encode.",
        at_least=0.001,
        at_most=1.0,
        live=True,
    )
    budget_hz: float = knob(
        0.0,
        "Budget mode: encodes per second of header time and camera, instead of the fraction, if above 0.",
        at_least=0.0,
        at_most=1000.0,
        live=True,
    )
    tau_min: float = knob(
        0.002,
        "Budget mode: lower limit of tau. In a calm scene a lower one would encode noise.",
        at_least=1e-6,
        at_most=10.0,
    )
    tau_max: float = knob(1.0, "Budget mode: upper limit of tau.", at_least=1e-6, at_most=1000.0)
    shadow_rate: float = knob(
        0.05,
        "Shadow evaluation: fraction of the skipped tubelets that are encoded after all, in idle time and without any "
        "effect on the stream, to measure the error of reuse. 0 never.",
        at_least=0.0,
        at_most=1.0,
        live=True,
    )
    calibrated_for: str = knob(
        "",
        "encoder_id that `saccade calibrate` chose gate.tau and gate.loss_per_change for; any other encoder is "
        "refused. Empty: not calibrated.",
    )
    centre: str = knob(
        "",
        "Mean embedding of the calibration, which is subtracted before fidelity is measured; base64 of float16 values, "
        "written by `saccade calibrate`. Empty: that of many recordings for the default model, the running mean of the "
        "stream for any other.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tau_min > self.tau_max:
            raise ConfigError(
                f"gate.tau_min is {self.tau_min}, more than gate.tau_max {self.tau_max}: lower one or raise the other"
            )


@dataclass(frozen=True)
class TokensConfig(Settings):
    """Choice of the tokens that are computed in an encoded tubelet; the others stay as they were computed last."""

    prefix: ClassVar[str] = "tokens"

    select: str = knob(
        "changed",
        "Tokens to compute: 'all' of them; 'changed', the fewest that leave no more change than tokens.threshold; "
        "'ratio', the tokens.ratio most changed; 'error', the fewest that show the picture within tokens.psnr_db.",
        choices=("all", "changed", "ratio", "error"),
    )
    threshold: float = knob(
        0.021,
        "Select 'changed': mean relative change, over all patches, of those that are not computed.",
        at_least=0.0,
        at_most=10.0,
        live=True,
    )
    ratio: float = knob(0.25, "Select 'ratio': share of the tokens to compute.", at_least=0.001, at_most=1.0, live=True)
    psnr_db: float = knob(
        30.0,
        "Select 'error': peak signal-to-noise ratio in dB of the picture that the computed patches make up.",
        at_least=1.0,
        at_most=100.0,
        live=True,
    )
    max_age_s: float = knob(
        10.0,
        "Seconds of header time after which a token is computed even if nothing changed. 0 never.",
        at_least=0.0,
        at_most=86400.0,
        live=True,
    )
    dilate: int = knob(
        0,
        "Patches around a changed one that are computed with it, in each direction.",
        at_least=0,
        at_most=64,
        live=True,
    )
