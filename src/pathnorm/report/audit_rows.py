"""What the tables of an audit hold, whether they end up as text or as a page."""

from __future__ import annotations

from pathnorm.report.audit import AuditRecord, GroupAudit, PredictedWidth, ReconstructionAudit
from pathnorm.report.fields import kind_of
from pathnorm.report.numbers import MISSING, count, decimal, percent, tiny

__all__ = [
    "KINDS",
    "NEURON_COLUMNS",
    "OUTPUT_COLUMNS",
    "WEIGHT_COLUMNS",
    "how",
    "network_rows",
    "neuron_cells",
    "output_cells",
    "weight_cells",
]

KINDS = {
    "exact": "counted or computed from the weights",
    "certified": "proved: from the weights for every input, or a bound on these data",
    "measured": "observed, and true of these data and this machine only",
}


def _group(name: str) -> str:
    return kind_of(GroupAudit, name)


def _layer(name: str) -> str:
    return kind_of(ReconstructionAudit, name)


# Two lines of heading in text, one heading on a page, and the kind.
NEURON_COLUMNS = (
    ("neurons", "", "layer", ""),
    ("width", "", "width", _group("width")),
    ("active", "", "active", _group("active")),
    ("dead", "proved", "dead, proved", _group("dead_proved")),
    ("dead", "data", "dead on data", _group("dead_measured")),
    ("twins", "proved", "duplicates, proved", _group("duplicates_proved")),
    ("twins", "data", "duplicates on data", _group("duplicates_measured")),
)
WEIGHT_COLUMNS = (
    ("weights", "", "layer", ""),
    ("balance", "median", "balance, median", _group("balance")),
    ("balance", "worst", "balance, worst", _group("balance_worst")),
    ("path", "norm", "path norm", _group("path_norm")),
    ("share", "", "share", _group("path_norm_share")),
    ("Gini", "", "Gini of masses", _group("gini")),
    ("direc-", "tions", "directions", _group("directions")),
    ("thm.", "", "theorem applies", _group("theorem_applies")),
)
OUTPUT_COLUMNS = (
    ("outputs", "", "layer", ""),
    ("rank", "Phi", "rank of Phi", _layer("rank_features")),
    ("rank", "Psi", "rank of Psi", _layer("rank_outputs")),
    ("rank", "bound", "rank bound", _layer("width_bound")),
    ("width", "1 %", "width for 1 %", kind_of(PredictedWidth, "width")),
    ("needs", ">=", "at least", kind_of(PredictedWidth, "lower_bound")),
    ("width", "5 %", "width for 5 %", kind_of(PredictedWidth, "width")),
    ("needs", ">=", "at least", kind_of(PredictedWidth, "lower_bound")),
    ("excess", "found", "excess, found", _layer("excess_found")),
    ("excess", "most", "excess, at most", _layer("excess_most")),
    ("subgr.", "resid.", "residual", _layer("subgradient_residual")),
)


def network_rows(record: AuditRecord) -> list[list[str]]:
    """Return rows of label, value, kind and remark."""
    dead = sum(group.dead_measured for group in record.groups)
    rows = [
        ["parameters", count(record.params), "exact", ""],
        ["multiply-accumulates", count(record.macs), "exact", "one sample"],
        [
            "neurons",
            count(record.neurons),
            "exact",
            f"in {len(record.groups)} layer{'' if len(record.groups) == 1 else 's'} that could be smaller",
        ],
        ["active neurons", count(record.active), "measured", f"{count(dead)} silent on these data only"],
        [
            "redundant neurons",
            count(record.dead_proved + record.duplicates_proved),
            "certified",
            f"{count(record.dead_proved)} dead, {count(record.duplicates_proved)} collinear, for every input",
        ],
        [
            "path norm",
            decimal(record.path_norm),
            "exact",
            f"all layers, BatchNorm folded in, {'with' if record.biases else 'without'} biases",
        ],
    ]
    if record.lipschitz_upper is None:
        rows.append(["Lipschitz at most", "not certifiable", "certified", ""])
    else:
        rows.append(["Lipschitz at most", decimal(record.lipschitz_upper), "certified", "Euclidean norms"])
    if record.lipschitz_lower is not None:
        attacked = f"attained from {record.attack_samples} sample{'' if record.attack_samples == 1 else 's'}"
        rows.append(["Lipschitz at least", decimal(record.lipschitz_lower), "measured", attacked])
    return rows


def neuron_cells(group: GroupAudit) -> list[str]:
    """Return the row of one layer, in the order of ``NEURON_COLUMNS``."""
    twins = MISSING if group.duplicates_measured is None else count(group.duplicates_measured)
    return [
        group.name,
        count(group.width),
        count(group.active),
        count(group.dead_proved),
        count(group.dead_measured),
        count(group.duplicates_proved),
        twins,
    ]


def weight_cells(group: GroupAudit) -> list[str]:
    """Return the row of one layer, in the order of ``WEIGHT_COLUMNS``."""
    return [
        group.name,
        f"{_unsigned_zero(group.balance[3]):.2f}",
        f"{group.balance_worst:.2f}",
        decimal(group.path_norm),
        percent(group.path_norm_share),
        f"{group.gini:.2f}",
        decimal(group.directions),
        "yes" if group.theorem_applies else "no",
    ]


def output_cells(group: GroupAudit) -> list[str]:
    """Return the row of one layer, in the order of ``OUTPUT_COLUMNS``."""
    fact = group.reconstruction
    if fact is None:
        return [group.name, *[MISSING] * (len(OUTPUT_COLUMNS) - 1)]
    star = "" if fact.enough_rows else "*"
    cells = [group.name, f"{fact.rank_features}{star}", f"{fact.rank_outputs}{star}", count(fact.width_bound)]
    for item in fact.predicted:
        cells += [f"{item.width}{star}", str(item.lower_bound)]
    return [
        *cells,
        percent(fact.excess_found),
        percent(fact.excess_most),
        tiny(fact.subgradient_residual),
    ]


def how(record: AuditRecord) -> str:
    """Return what was read and what it took, in one line."""
    times = "one pass" if record.passes == 1 else f"{record.passes} passes"
    places = "all positions" if record.max_positions is None else f"{record.max_positions} positions per batch"
    facts = [group.reconstruction for group in record.groups if group.reconstruction is not None]
    ranks = f"ranks at {tiny(facts[0].rank_tolerance)}; " if facts else ""
    shot = sum(fact.ranking == "one-shot" for fact in facts)
    ranking = "backward elimination" if not shot else f"one-shot in {shot} of {len(facts)} layers, else backward"
    return (
        f"{count(record.samples)} samples in {times} over the data; convolutions at {places}; {ranks}"
        f"neurons ranked by {ranking}; seed {record.seed}; {decimal(record.seconds)} s; peak memory "
        f"{decimal(record.peak_memory_mb)} MB"
    )


def _unsigned_zero(value: float) -> float:
    return 0.0 if abs(value) < 0.005 else value
