# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The rows of each table, as data: title, parts of the method, and the paper's values.

``recipes/<scale>/<row>.yaml`` has what a row does: its difference to ``base.yaml``.
"""

from collections.abc import Set
from dataclasses import dataclass
from typing import Any, Literal

from ..evaluate.paper_tables import MED_GRIT, QA, TABLE_1, TABLE_2, TABLE_3, TASK_METRICS


Scale = Literal["paper", "mini"]
SCALES = ("paper", "mini")
REFERENCE = "sft"
"""The row that the others are compared with: Qwen2-VL, fine-tuned in the same two stages, without ClinKD's parts."""
REFERENCES = {"on_policy": "kd_off_policy"}
"""Table -> its reference, where it is another one."""


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    name: str  # of its YAML file; its runs' folders start with it
    title: str  # its label in a table
    parts: Set[str] = frozenset()  # the method's parts in it: ``mcg``, ``kd``, ``sasg``, ``correction``
    uses: str | None = None  # the row whose trained model it predicts with; None if it trains its own or needs none
    seeded: bool = True  # whether a seed changes it
    scales: tuple[str, ...] = SCALES  # the scales at which it runs
    computed: bool = False  # whether it is computed from the data set, without a recipe
    sanity: bool = False  # whether it is a sanity check, not a competitor


ALPHAS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Values of Eq. 16's alpha in figure 4."""
BASE_ALPHA = {"paper": 0.5, "mini": 1.0}
"""Scale -> the alpha of row ``pseudo_kd`` (section 4.3; the demo's)."""


def alpha_row(alpha: float, scale: str) -> str:
    """The row of a value of alpha at a scale."""
    return "pseudo_kd" if alpha == BASE_ALPHA[scale] else _alpha_name(alpha)


def _alpha_name(alpha: float) -> str:
    return f"alpha_{alpha:g}".replace(".", "_")


def _alpha_rows() -> list[Row]:
    others = {alpha: tuple(scale for scale in SCALES if BASE_ALPHA[scale] != alpha) for alpha in ALPHAS}
    return [Row(_alpha_name(alpha), f"alpha = {alpha:g}", {"kd"}, scales=scales) for alpha, scales in others.items()]


_PAPER_ONLY = ("paper",)
_MINI_ONLY = ("mini",)
_ROWS = (
    Row("sft", "Qwen2-VL, SFT"),
    Row("bird", "BiRD-like: 2D-RoPE, SFT"),
    Row("mcg", "+ MCG-RoPE", {"mcg"}),
    Row("pseudo_kd", "+ Pseudo-KD", {"kd"}),
    Row("sasg", "+ SASG", {"sasg"}, uses="sft"),
    Row("clinkd", "ClinKD", {"mcg", "kd", "sasg", "correction"}),
    Row("correction", "+ Reflective Correction", {"correction"}),
    Row("clinkd_uncorrected", "ClinKD without Reflective Correction", {"mcg", "kd", "sasg"}),
    Row("clinkd_first_beam", "ClinKD without SASG", {"mcg", "kd", "correction"}, uses="clinkd"),
    Row("rope_mixed", "+ RoPE-Mixed"),
    Row("vkd", "+ VkD"),
    Row("llava", "LLaVA-1.5 (LLaVA-Med's architecture), SFT", scales=_PAPER_ONLY),
    Row("llava_qa", "LLaVA-1.5 (LLaVA-Med's architecture), SFT", uses="llava", scales=_PAPER_ONLY),
    Row("bird_qa", "BiRD-like: 2D-RoPE, SFT", uses="bird", scales=_PAPER_ONLY),
    Row("clinkd_qa", "ClinKD", {"mcg", "kd", "sasg", "correction"}, uses="clinkd", scales=_PAPER_ONLY),
    Row("untrained", "the base, not fine-tuned", seeded=False, scales=_MINI_ONLY, sanity=True),
    Row("mean_box", "mean box, blind", seeded=False, computed=True, sanity=True),
    Row("blind", "SFT on noise instead of images", sanity=True),
    Row("teacher", "the teacher itself", seeded=False, sanity=True),
    Row("pseudo_labels", "SFT on pseudo-labels alone", sanity=True),
    *_alpha_rows(),
    Row("kd_off_policy", "off-policy: the data's answers", {"kd"}, scales=_MINI_ONLY),
    Row("kd_mixed", "mixed: half of the batches sampled", {"kd"}, scales=_MINI_ONLY),
    Row("kd_on_policy", "on-policy: all batches sampled", {"kd"}, scales=_MINI_ONLY),
)
ROWS = {row.name: row for row in _ROWS}

TABLES = {
    "table1": ("llava", "sft", "bird", "clinkd", "llava_qa", "bird_qa", "clinkd_qa"),
    "table2": (
        *("sft", "bird", "mcg", "pseudo_kd", "sasg", "clinkd"),
        *("correction", "clinkd_uncorrected", "clinkd_first_beam"),
        *("untrained", "mean_box", "blind", "teacher", "pseudo_labels"),
    ),
    "table3": ("sft", "bird", "rope_mixed", "mcg", "vkd", "pseudo_kd", "clinkd"),
    "figure4": ("sft", "pseudo_kd", *map(_alpha_name, ALPHAS)),
    "on_policy": ("untrained", "kd_off_policy", "kd_mixed", "kd_on_policy", "teacher"),
}
"""Table -> its rows; ``on_policy`` is not of the paper and runs at mini scale."""
TEST_SETS = {"llava_qa": QA, "bird_qa": QA, "clinkd_qa": QA}
"""Rows that are tested on another data set than Med-GRIT's (table 1)."""

_BOTH = {"bird": "BiRD", "clinkd": "ClinKD"}
METHODS_OF_PAPER = {
    "table1": {**_BOTH, "llava": "LLaVA-Med", "llava_qa": "LLaVA-Med", "bird_qa": "BiRD", "clinkd_qa": "ClinKD"},
    "table2": {**_BOTH, "sft": "Qwen2-VL", "mcg": "BiRD", "pseudo_kd": "BiRD", "sasg": "BiRD"},
    "table3": {
        **_BOTH,
        "rope_mixed": "BiRD + RoPE-Mixed",
        "mcg": "BiRD + MCG-RoPE",
        "vkd": "BiRD + VkD",
        "pseudo_kd": "BiRD + Pseudo-KD",
    },
    "figure4": {},
    "on_policy": {},
}
"""Table -> row -> the paper's name of the row beside ours."""


def rows_of(table: str, scale: str) -> list[Row]:
    """The rows of a table that can be run at a scale, in the table's order."""
    names = ("sft", *(alpha_row(alpha, scale) for alpha in ALPHAS)) if table == "figure4" else TABLES[table]
    return [ROWS[name] for name in names if scale in ROWS[name].scales]


def paper_scores(table: str, row: str) -> dict[str, float | None] | None:
    """The paper's row of table 1 or 2, in percent: task or ``Average`` -> value, None for a dash; or no row: None."""
    method = METHODS_OF_PAPER[table].get(row)
    if method is None or table not in ("table1", "table2"):
        return None
    if table == "table1":
        printed = TABLE_1[TEST_SETS.get(row, MED_GRIT), method]
    else:
        printed = TABLE_2[(method, *(part in ROWS[row].parts for part in ("mcg", "kd", "sasg")))]
    return dict(zip((*TASK_METRICS, "Average"), printed, strict=True))


def paper_modalities(task: str, row: str) -> dict[str, Any] | None:
    """The paper's row of table 3: modality or ``average`` -> percent; None without a row."""
    method = METHODS_OF_PAPER["table3"].get(row)
    return None if method is None else TABLE_3[task][method]
