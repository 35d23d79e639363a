"""Warning for a token selection that saves nothing, because the encoder can compute whole tubelets only."""

from saccade_ros.config import Config


def explain_widening(config: Config, runtime: str, device: str, counts: tuple[int, ...]) -> str:
    """Say that every plan is widened to all tokens, why, and what to change; empty if that is not so.

    Args:
        runtime: which computes the encoder, such as torch.
        device: that it runs on, cpu or cuda.
        counts: numbers of tokens that a step can compute (EncoderInfo.token_counts).
    """
    if config.tokens.select == "all" or len(counts) != 1:
        return ""
    return (
        f"tokens.select is {config.tokens.select!r}, but every tubelet that is encoded is computed whole, all "
        f"{counts[0]} tokens: {_cause(config, runtime, device)}. gate.tau decides which are encoded; if that is what "
        "you want, say so by tokens.select all"
    )


def _cause(config: Config, runtime: str, device: str) -> str:
    """Name the first setting that rules sparse steps out, and its remedy; else the export."""
    encoder = config.encoder
    if encoder.recompute > 1:
        return f"encoder.recompute is {encoder.recompute}, and a sparse step needs 1"
    if encoder.window == 1:
        return "encoder.window is 1, and a sparse step starts from the tubelet before; set 2 or more"
    if encoder.merge:
        return f"encoder.merge is {encoder.merge}, and merged tokens cannot be kept; set 0"
    if device == "cuda" and encoder.area_layers and encoder.area_grid != "1x1":
        return (
            f"encoder.area_grid is {encoder.area_grid}, and on a GPU area attention takes whole tubelets; set "
            "area_layers 0, or backend.device cpu"
        )
    return f"this export for {runtime} has no sparse step; export the model again with `saccade export`"
