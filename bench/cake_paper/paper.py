"""The paper's figures, and the speeds that they come from.

Jin, Liu, Zhang and Mao, "Compute Or Load KV Cache? Why Not Both?", arXiv 2410.03065v2. Its tables
give each measurement as two ratios: how many times as long loading alone took, and computing alone.
The time of loading follows from the bandwidth, which the paper injects as a delay, and the time of
computing from both ratios.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

KIB = 1024
GBIT = 2**30 / 8
"""Bytes a second of one Gbps: by binary units a chunk takes the 62 ms of figure 4's line for
32 Gbps, by decimal ones 67."""

BUDGET = 512
"""Tokens that the paper's engine computes at a time."""

FETCHED = 128
"""Tokens that the paper loads at a time (section 5.1)."""

RAM_BYTES_PER_SECOND = 25e9
"""From RAM to the GPU (figure 1)."""


@dataclass(frozen=True)
class Model:
    """A model of table 1.

    Attributes:
        kv_bytes: of a token.
        layers: of the model.
        width: of its attention, all heads together.
        parameters: of the model, by its name.
    """

    kv_bytes: int
    layers: int
    width: int
    parameters: float


MODELS = {
    "LongAlpaca-7B": Model(512 * KIB, 32, 4096, 6.7e9),
    "LongAlpaca-13B": Model(800 * KIB, 40, 5120, 13e9),
    "Llama 3.1 8B": Model(128 * KIB, 32, 4096, 8e9),
    "Llama 3.1 70B": Model(320 * KIB, 80, 8192, 70e9),
}

# Figure 4, LongAlpaca-7B: milliseconds of the first and the 64th chunk of 512 tokens, read off the
# plot by others; two A100 are in none, and their share of attention is taken to be the same.
FIRST_AND_LAST = {"A100": (38.8, 112.0), "2xA100": (38.8, 112.0), "H100": (27.4, 93.5)}


@dataclass(frozen=True)
class Cell:
    """One measurement of the paper.

    Attributes:
        table: its number in arXiv's version 2.
        hardware: the GPUs.
        model: one of MODELS.
        tokens: of the prompt.
        share: of the engine's step that the prompt gets.
        gbps: bandwidth of loading.
        bits: of a stored number.
        loaded: seconds of loading alone, in times of the paper's Cake.
        computed: seconds of computing alone, likewise.
    """

    table: int
    hardware: str
    model: str
    tokens: int
    share: float
    gbps: float
    bits: int
    loaded: float
    computed: float

    @property
    def load_seconds(self) -> float:
        """Seconds of loading alone, by the bandwidth."""
        kv_bytes = MODELS[self.model].kv_bytes * self.bits / 16
        return self.tokens * kv_bytes / (self.gbps * GBIT)

    @property
    def compute_seconds(self) -> float:
        """Seconds of computing alone, by what the two ratios say of each other."""
        return self.load_seconds * self.computed / self.loaded

    @property
    def cake_seconds(self) -> float:
        """Seconds of the paper's Cake."""
        return self.load_seconds / self.loaded

    @property
    def growth(self) -> float:
        """How much longer a token takes for each token before it, in times of the first.

        As in figure 4, by how much of the model's arithmetic is attention.
        """
        first, last = FIRST_AND_LAST[self.hardware]
        measured = (last / first - 1) / 63 / BUDGET
        return measured * attention(MODELS[self.model]) / attention(MODELS["LongAlpaca-7B"])


def attention(model: Model) -> float:
    """Return what attention to one token costs, beside a token's other arithmetic."""
    return model.layers * model.width / model.parameters


def pairs(text: str) -> list[tuple[float, float]]:
    """Read a row of the paper's cells."""
    return [(float(a), float(b)) for a, b in (cell.split("\\") for cell in text.split())]


BANDWIDTHS = (7, 25, 32, 56, 100)

TABLE_3 = {
    ("2xA100", 0.125): r"1.87\2.18 1.25\5.06 1.18\6.12 1.09\9.54 1.04\15.27",
    ("2xA100", 0.5): r"4.57\1.29 2.07\2.03 1.80\2.24 1.46\3.06 1.30\4.62",
    ("2xA100", 0.875): r"7.22\1.15 2.75\1.53 2.36\1.67 1.83\2.17 1.50\3.02",
    ("2xA100", 1): r"8.10\1.10 3.03\1.43 2.63\1.59 1.97\2.00 1.54\2.64",
    ("A100", 0.125): r"1.57\2.85 1.14\7.22 1.10\8.95 1.03\14.06 1.02\23.59",
    ("A100", 0.5): r"3.35\1.46 1.68\2.55 1.55\3.01 1.30\4.26 1.17\6.48",
    ("A100", 0.875): r"5.05\1.26 2.18\1.88 1.90\2.10 1.56\2.91 1.30\4.07",
    ("A100", 1): r"5.62\1.21 2.41\1.81 2.00\1.91 1.69\2.71 1.30\3.52",
    ("H100", 0.125): r"1.74\2.40 1.21\5.80 1.13\6.90 1.08\11.08 1.05\18.24",
    ("H100", 0.5): r"4.13\1.38 1.94\2.25 1.72\2.55 1.45\3.62 1.27\5.34",
    ("H100", 0.875): r"6.23\1.17 2.53\1.66 2.23\1.86 1.74\2.44 1.50\3.54",
    ("H100", 1): r"7.13\1.17 2.74\1.56 2.40\1.75 1.84\2.25 1.49\3.08",
}

LENGTHS = (4096, 8192, 12288, 16384)

TABLE_4 = {
    ("2xA100", 7, 0.125): r"2.02\1.83 1.97\1.95 1.94\2.09 1.87\2.18",
    ("2xA100", 7, 0.5): r"4.75\1.08 4.97\1.21 4.71\1.24 4.57\1.29",
    ("2xA100", 7, 0.875): r"7.31\1.00 7.49\1.06 7.61\1.15 7.22\1.15",
    ("2xA100", 7, 1): r"9.06\0.99 8.65\1.04 8.43\1.08 8.10\1.10",
    ("2xA100", 32, 0.125): r"1.13\4.41 1.19\5.17 1.19\5.68 1.18\6.12",
    ("2xA100", 32, 0.5): r"1.68\1.64 1.87\1.99 1.80\2.09 1.80\2.24",
    ("2xA100", 32, 0.875): r"2.47\1.45 2.45\1.52 2.49\1.66 2.36\1.67",
    ("2xA100", 32, 1): r"2.67\1.25 2.73\1.43 2.69\1.52 2.63\1.59",
    ("A100", 7, 0.125): r"1.62\2.30 1.59\2.47 1.58\2.67 1.57\2.85",
    ("A100", 7, 0.5): r"3.58\1.27 3.48\1.32 3.45\1.41 3.35\1.46",
    ("A100", 7, 0.875): r"5.36\1.12 5.18\1.15 5.17\1.21 5.05\1.26",
    ("A100", 7, 1): r"6.31\1.11 5.95\1.13 5.66\1.15 5.62\1.21",
    ("A100", 32, 0.125): r"1.04\6.37 1.06\7.20 1.08\8.04 1.10\8.95",
    ("A100", 32, 0.5): r"1.38\2.10 1.49\2.48 1.50\2.71 1.55\3.01",
    ("A100", 32, 0.875): r"1.83\1.65 1.93\1.87 1.91\1.97 1.90\2.10",
    ("A100", 32, 1): r"2.06\1.55 2.15\1.79 2.00\1.79 2.00\1.91",
}

TABLE_5 = {
    (0.125, 7): r"1.92\2.15 1.87\2.18 1.20\5.56 0.99\12.92",
    (0.125, 32): r"1.20\5.98 1.18\6.12 0.98\19.47 0.80\44.26",
    (0.5, 7): r"4.79\1.30 4.57\1.29 1.88\2.13 1.25\3.99",
    (0.5, 32): r"1.85\2.22 1.80\2.24 1.13\5.42 0.91\12.24",
    (1, 7): r"8.55\1.10 8.10\1.10 2.81\1.52 1.66\2.64",
    (1, 32): r"2.79\1.60 2.63\1.59 1.37\3.18 1.02\6.86",
}

BITS = (16, 8, 3)

TABLE_6 = {
    7: r"8.10\1.10 4.63\1.22 2.39\1.63",
    25: r"3.03\1.43 2.07\1.87 1.41\3.09",
    32: r"2.63\1.59 1.85\2.12 1.37\3.73",
    56: r"1.97\2.00 1.49\2.85 1.26\5.38",
}

AVERAGES = {4: (3.34, 2.24), 5: (2.68, 3.01)}
"""What the paper says of a table: loading alone and computing alone, in times of its Cake. It says
2.23 and 3.76 of table 3, whose cells give 2.40 and 3.01 by its rule."""


def cells() -> Iterator[Cell]:
    """Yield all measurements of tables 3 to 6; all but table 5's are of LongAlpaca-13B."""
    large, long = "LongAlpaca-13B", LENGTHS[-1]
    for (hardware, share), row in TABLE_3.items():
        for gbps, pair in zip(BANDWIDTHS, pairs(row), strict=True):
            yield Cell(3, hardware, large, long, share, gbps, 16, *pair)
    for (hardware, gbps, share), row in TABLE_4.items():
        for tokens, pair in zip(LENGTHS, pairs(row), strict=True):
            yield Cell(4, hardware, large, tokens, share, gbps, 16, *pair)
    for (share, gbps), row in TABLE_5.items():
        for model, pair in zip(MODELS, pairs(row), strict=True):
            yield Cell(5, "2xA100", model, long, share, gbps, 16, *pair)
    for gbps, row in TABLE_6.items():
        for bits, pair in zip(BITS, pairs(row), strict=True):
            yield Cell(6, "2xA100", large, long, 1, gbps, bits, *pair)
