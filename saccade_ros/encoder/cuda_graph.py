"""Encoder step on a GPU as one captured CUDA graph.

A ViT-L step launches some 360 kernels, which take the host longer than the GPU (design figure: 0.3 ms of GPU time). A
graph replays them in one launch, on the addresses and shapes it was captured with. A ring's shapes change while it
fills, so there is one graph per set of rings, their fill and the number of tokens computed (with areas, of each area),
captured when it first occurs; after W steps a camera needs one for each number of tokens, which the backend keeps few.
Where the blocks point moves on between replays: Block.update writes it into the captured indices.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from saccade_ros.encoder.model import StepOutput, StreamingEncoder
from saccade_ros.encoder.positions import Indices
from saccade_ros.encoder.ring import RingCache, make_blocks

Run = Callable[[], list[StepOutput]]
Counts = tuple[int, ...]
Pool = Any  # torch's handle of the memory that graphs share; None on a CPU

# One camera needs one for each number of tokens once its ring is full; each graph holds its activations.
MOST_GRAPHS = 32


class CapturedStep:
    """Step of these rings at their present fill, with these numbers of tokens, to be repeated while both stay.

    On a CPU nothing is captured and the same static buffers are computed on eagerly: the fallback, and what tests it.
    """

    def __init__(
        self, encoder: StreamingEncoder, rings: Sequence[RingCache], token_idx: Sequence[Indices | None], pool: Pool
    ) -> None:
        self._blocks = make_blocks(rings, token_idx)
        tokens, width = encoder.spec.tokens, encoder.spec.width
        self._patches = [torch.zeros(tokens, width, device=encoder.device) for _ in rings]
        self._run = self._capture(lambda: encoder.run(self._patches, self._blocks), encoder.device, pool)

    def __call__(self, patches: Sequence[Tensor], token_idx: Sequence[Indices | None]) -> list[StepOutput]:
        """Outputs of the step; they are overwritten by the next call."""
        for block, static, new, chosen in zip(self._blocks, self._patches, patches, token_idx, strict=True):
            block.update(chosen)
            static.copy_(new, non_blocking=True)
        return self._run()

    @staticmethod
    def _capture(run: Run, device: torch.device, pool: Pool) -> Run:
        if device.type != "cuda":
            return run
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # cuBLAS makes its workspaces on first use, which a capture does not allow
            for _ in range(2):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            outputs = run()

        def replay() -> list[StepOutput]:
            """Launch the graph; its outputs are always the same tensors."""
            graph.replay()
            return outputs

        return replay


class GraphedEncoder:
    """Encoder stepped through captured graphs, with the arguments and results of `StreamingEncoder.step`."""

    def __init__(self, encoder: StreamingEncoder) -> None:
        self._encoder = encoder
        self._steps: OrderedDict[tuple[tuple[int, int, Counts | None], ...], CapturedStep] = OrderedDict()
        self._pool: Pool = torch.cuda.graph_pool_handle() if encoder.device.type == "cuda" else None

    @torch.inference_mode()
    def step(
        self, patches: Sequence[Tensor], rings: Sequence[RingCache], token_idx: Sequence[Indices | None] | None = None
    ) -> list[StepOutput]:
        """See StreamingEncoder.step."""
        chosen = token_idx or [None] * len(rings)
        outputs = self._encoder.finish(self._step_for(rings, chosen)(patches, chosen), rings)
        return [StepOutput(*(part.clone() for part in output)) for output in outputs]

    def _step_for(self, rings: Sequence[RingCache], token_idx: Sequence[Indices | None]) -> CapturedStep:
        """The captured step of exactly these rings at their fill. It holds the rings, so that an id stays theirs."""
        by_ring = list(zip(rings, token_idx, strict=True))
        counts = [None if chosen is None else ring.areas.counts(chosen) for ring, chosen in by_ring]
        key = tuple((id(ring), ring.next_step.fill, count) for ring, count in zip(rings, counts, strict=True))
        if key not in self._steps:
            self._steps[key] = CapturedStep(self._encoder, rings, token_idx, self._pool)
            if len(self._steps) > MOST_GRAPHS:
                self._steps.popitem(last=False)
        self._steps.move_to_end(key)
        return self._steps[key]
