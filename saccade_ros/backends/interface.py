"""Interface of an exported graph: the names and sizes of what it takes and gives, and the description it carries.

The export writes a graph by it, and what loads an export checks that graph and manifest say the same. What no size
tells (rotary positions, the norm's epsilon, the contract) is in the description.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from saccade_ros.backends.manifest import ManifestError
from saccade_ros.backends.window import ROWS, Contract, StepShape
from saccade_ros.encoder.spec import ModelSpec

Steps = Literal["any", "dense", "sparse"]
Sizes = Mapping[str, Sequence[int | str]]

TABLES = ("query_cos", "query_sin", "key_cos", "key_sin")
WHOLE_NUMBERS = ("slots", "previous_slot", "select", "area_counts")  # inputs of type int64; all others are floats
DESCRIPTION = "saccade_ros"  # key of a graph's metadata


def embed_sizes(spec: ModelSpec) -> tuple[Sizes, Sizes]:
    """Sizes of the inputs and of the outputs of the gate's front end, by name."""
    return {"pixels": spec.pixels_shape}, {"patches": [spec.tokens, spec.width]}


def input_sizes(shape: StepShape, steps: Steps) -> Sizes:
    """Sizes of a step's inputs by name; ROWS stands for the number of tokens that it computes."""
    rows, table_rows = (shape.rows, shape.table_rows) if steps == "dense" else (ROWS, ROWS)
    tables = [*TABLES, *["key_offset"] * (shape.recompute > 1)]
    sizes: dict[str, Sequence[int | str]] = {"patches": [shape.batch, rows, shape.spec.width]}
    sizes |= {name: [shape.batch, table_rows, shape.key_width] for name in tables}
    sizes["slots"] = [shape.recompute, shape.batch]
    if steps != "dense":
        sizes |= {"previous_slot": [shape.batch], "select": [shape.batch, shape.spec.tokens]}
        sizes |= {"area_counts": [shape.areas.number]} if shape.areas.are_on else {}
    sizes |= {f"keys_{i}": shape.keys(i) for i in range(shape.spec.depth)}
    return sizes | {f"values_{i}": shape.values(i) for i in range(shape.spec.depth)}


def output_sizes(shape: StepShape, contract: Contract, steps: Steps) -> Sizes:
    """Sizes of a step's outputs by name."""
    spec, tubelets = shape.spec, shape.window if contract == "scatter" else shape.recompute
    suffix, left = "out" if contract == "scatter" else "new", shape.recompute * shape.counts[-1]
    sizes: dict[str, Sequence[int | str]]
    sizes = {"tokens": [shape.batch, left if steps == "dense" else ROWS, spec.width]}
    sizes |= {"sizes": [shape.batch, left]} if shape.merge else {}
    for kind, width in (("keys", shape.key_width), ("values", spec.head_width)):
        for i in range(spec.depth):
            sizes[f"{kind}_{suffix}_{i}"] = [shape.batch, spec.heads, tubelets * shape.counts[i], width]
    return sizes


def describe_embed(spec: ModelSpec) -> str:
    """Describe the gate's front end, all that its values depend on but the weights: JSON."""
    sizes = asdict(spec)
    del sizes["name"]
    return json.dumps(sizes, sort_keys=True)


def describe_step(shape: StepShape, contract: str) -> str:
    """Describe a step likewise."""
    return json.dumps({"spec": describe_embed(shape.spec), **shape.sizes, "contract": contract}, sort_keys=True)


def check_sizes(file: Path, what: str, found: Sizes, wanted: Sizes) -> None:
    """Compare the inputs or outputs of a graph with those that the manifest's sizes ask for.

    Raises:
        ManifestError: they differ; names the first.
    """
    for name in [*wanted, *found]:
        here, there = (list(sizes.get(name, ())) or None for sizes in (found, wanted))
        if here != there:
            raise ManifestError(
                f"{file}: its graph's {what} {name} is {here}, its manifest says {there}: one of the two is of another "
                "export; copy or make it again"
            )


def check_description(file: Path, found: str, wanted: str) -> None:
    """Compare the description that a graph carries with the manifest's.

    Raises:
        ManifestError: they differ.
    """
    if found != wanted:
        raise ManifestError(
            f"{file}: its graph was made for {found or 'nothing it tells'}, its manifest says {wanted}: one of the two "
            "is of another export; copy or make it again"
        )
