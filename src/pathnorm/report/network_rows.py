"""What the tables of a fitted network hold, whether they end up as text or as a page."""

from __future__ import annotations

from pathnorm.report.fields import kind_of
from pathnorm.report.network import NetworkRecord, ScoreRecord
from pathnorm.report.numbers import count, decimal, percent, tiny

__all__ = ["METRICS", "MODELS", "column_rows", "how", "network_rows", "score_rows", "summary"]

MODELS = {"network": "ReLU network", "linear": "linear model", "boosting": "boosted trees"}

METRICS = {
    "r2": "R2",
    "rmse": "RMSE",
    "mae": "mean absolute error",
    "loss": "loss per row",
    "accuracy": "accuracy",
    "log_loss": "log-loss",
    "auc": "area under ROC",
}

_SHARES = ("r2", "accuracy")
_SHAPES = {1: "a sum of functions of one feature each", 2: "a sum of functions of at most two features each"}


def summary(record: NetworkRecord) -> str:
    """Return what is known of the optimum first, then what was fitted to what, and how well it does elsewhere."""
    used = sum(column.n_features > 0 for column in record.columns)
    shape = f", as {_SHAPES[record.interactions]}" if record.interactions else ""
    names = len(record.features.names)
    text = (
        f"{record.sentence}. It predicts {'classes of ' * (record.task == 'classification')}{record.target} from "
        f"{count(used)} column{'s' * (used != 1)} ({count(names)} encoded feature{'s' * (names != 1)}){shape}, and was "
        f"fitted to {count(record.n_train)} rows"
    )
    best = next((score for score in record.scores if score.model == "network"), None)
    if best is None:
        return text + "."
    shown = f"{METRICS[best.metric]} {_number(best.metric, best.value)} ({_interval(best)})"
    return f"{text}; on {count(record.n_test)} rows held out: {shown}."


def network_rows(record: NetworkRecord) -> list[list[str]]:
    """Return rows of label, value, kind and remark."""
    everywhere = record.scope == "function_space"
    over = "all neurons" if everywhere else "the neurons that were found"
    bound = f"at least {decimal(record.dual, digits=6)}{'' if everywhere else ' over the neurons that were found'}"
    rows = [
        ["neurons", count(record.n_neurons), _kind("n_neurons"), _neurons(record)],
        ["path norm", decimal(record.path_norm, digits=4), _kind("path_norm"), "features in standard deviations"],
        ["lambda", decimal(record.lam, digits=4), _kind("lam"), _chosen(record)],
        ["lambda_max", decimal(record.lam_max, digits=4), _kind("lam_max"), "from there on the fit is affine"],
        ["objective", decimal(record.primal, digits=6), _bound_kind(record), bound],
        ["relative gap", tiny(max(record.gap, 0.0)), _bound_kind(record), f"over {over} ({record.method})"],
    ]
    if not everywhere:
        if record.violation is not None:
            violation = tiny(max(record.violation, 0.0))
            rows.append(["violation", violation, _kind("violation"), "largest that was found, of the dual constraint"])
        if record.proved is not None and record.proved < 1.0:
            rows.append(["proved gap", percent(record.proved), _kind("proved"), "over all neurons, however loose"])
    return rows


def score_rows(record: NetworkRecord) -> list[list[str]]:
    """Return one row per metric: label, and value with interval for each model in the order of ``MODELS``."""
    found = {(score.metric, score.model): score for score in record.scores}
    metrics = list(dict.fromkeys(score.metric for score in record.scores))
    rows = []
    for metric in metrics:
        cells = [
            f"{_number(metric, score.value)} ({_interval(score)})" if score is not None else ""
            for score in (found.get((metric, model)) for model in MODELS)
        ]
        rows.append([METRICS[metric], *cells])
    return rows


def column_rows(record: NetworkRecord) -> list[list[str]]:
    """Return one row per column: name, kind, missing values, features, and why there is none."""
    return [
        [
            column.name,
            column.kind,
            count(column.n_missing),
            count(column.n_features),
            column.left_out,
        ]
        for column in record.columns
    ]


def how(record: NetworkRecord) -> str:
    """Return what was asked for and what it took, in one line."""
    loss = record.loss if record.parameter is None else f"{record.loss} {decimal(record.parameter)}"
    parts = [f"{record.task} ({record.task_rule})", f"loss {loss}", f"affine part {record.affine}"]
    if record.weight_name is not None:
        parts.append(f"weights {record.weight_name}")
    parts.append(f"{count(record.rows)} rows")
    if record.rows_without_target:
        parts.append(f"{count(record.rows_without_target)} rows without target left out")
    parts.append(f"split with seed {record.seed}")
    parts.append(f"intervals: 95 %, {count(record.resamples)} bootstrap samples of the held-out rows")
    parts.append(f"{decimal(record.seconds)} s, of which the network {decimal(record.seconds_fit)} s")
    parts.append(f"peak memory {decimal(record.peak_memory_mb)} MB")
    return "; ".join(parts)


def _bound_kind(record: NetworkRecord) -> str:
    """A bound over the neurons that a search found proves nothing of the others."""
    return _kind("gap") if record.scope == "function_space" else "measured"


def _neurons(record: NetworkRecord) -> str:
    """Say what stands beside the number of neurons."""
    parts = []
    if record.max_neurons is not None:
        parts.append(f"at most {count(record.max_neurons)} were asked for")
    if record.relaxed:
        parts.append("output weights refitted without penalty; the rest speaks of the penalised network")
    return "; ".join(parts)


def _chosen(record: NetworkRecord) -> str:
    if record.path is None:
        return "given"
    rule = ", one-standard-error rule" if record.one_standard_error else ""
    return f"chosen by {record.path.folds}-fold cross-validation{rule} out of {len(record.path.lams)}"


def _number(metric: str, value: float) -> str:
    return percent(value) if metric in _SHARES else decimal(value)


def _interval(score: ScoreRecord) -> str:
    if score.metric in _SHARES:
        return f"{percent(score.low).removesuffix(' %')} to {percent(score.high).removesuffix(' %')}"
    return f"{decimal(score.low)} to {decimal(score.high)}"


def _kind(name: str) -> str:
    return kind_of(NetworkRecord, name)
