"""What the tables of a fit hold, whether they end up as text or as a page."""

from __future__ import annotations

from pathnorm.report.fields import kind_of
from pathnorm.report.fit import FitRecord
from pathnorm.report.numbers import count, decimal, percent, tiny

__all__ = ["CRITERIA", "KINDS", "band_sentence", "beside_rows", "fit_rows", "how", "summary"]

KINDS = {
    "exact": "counted or computed from the answer",
    "certified": "a bound that is proved, for these samples and this lambda",
    "measured": "observed or estimated, and true of these samples and this machine only",
}

CRITERIA = {
    "sure": "Stein's unbiased risk estimate (SURE)",
    "gcv": "generalised cross-validation (GCV)",
    "bic": "the Bayesian information criterion (BIC)",
    "cv": "cross-validation",
}

_SCOPES = {"function_space": "all functions of BV2", "dictionary": "all functions with these knots"}


def summary(record: FitRecord) -> str:
    """Return what is proved first, then what the fit is."""
    over = _SCOPES[record.scope]
    gap = f"the relative gap is {tiny(record.gap)}" if record.gap > 0 else "the gap is zero to the last digit"
    if record.gap <= record.tol:
        proof = f"Certified optimal over {over} at this lambda: {gap}."
    else:
        proof = f"Not optimal to {tiny(record.tol)} as asked: over {over} at this lambda {gap}, which is certified."
    knots = "no knot" if record.n_knots == 0 else f"{count(record.n_knots)} knot{'s' * (record.n_knots != 1)}"
    shape = (
        f"{record.y_name} is fitted by a straight line" if record.n_knots == 0 else f"{record.y_name} bends at {knots}"
    )
    if record.loss in ("logistic", "poisson"):
        shape = f"The {'log-odds' if record.loss == 'logistic' else 'log-mean'} of {shape}"
    return f"{proof} {shape} over {count(record.n_samples)} samples, with residuals of {decimal(record.rmse)} (RMSE)."


def fit_rows(record: FitRecord) -> list[list[str]]:
    """Return rows of label, value, kind and remark."""
    samples = f"{count(record.n_distinct)} different values of {record.x_name}"
    if record.rows_dropped:
        samples += f"; {count(record.rows_dropped)} of {count(record.rows)} rows lack a value"
    rows = [
        ["samples", count(record.n_samples), _kind("n_samples"), samples],
        ["knots", count(record.n_knots), _kind("n_knots"), "neurons of the ReLU network"],
        ["path norm", decimal(record.tv2, digits=4), _kind("tv2"), "total variation of the derivative"],
        ["lambda", decimal(record.lam, digits=4), _kind("lam"), _chosen(record)],
        ["objective", decimal(record.primal, digits=6), _kind("primal"), f"at least {decimal(record.dual, digits=6)}"],
        ["relative gap", tiny(record.gap), _kind("gap"), f"over {_SCOPES[record.scope]}"],
        ["RMSE", decimal(record.rmse), _kind("rmse"), "on the samples it was fitted to"],
        ["noise", decimal(record.noise), _kind("noise"), "standard deviation, estimated from second differences"],
    ]
    if record.loss != "quantile":  # which does not fit the mean
        rows.insert(-1, ["R2", percent(record.r2), _kind("r2"), "of the variance, on the same samples"])
    if record.band is not None:
        band = record.band
        rows.append(["band", percent(band.level, digits=0), kind_of(type(band), "lower"), band.method])
    return rows


def beside_rows(record: FitRecord) -> list[list[str]]:
    """Return rows of label, BV2, smoothing spline and kind; empty without a smoothing spline."""
    other = record.smoother
    if other is None:
        return []
    rows = [
        ["degrees of freedom", count(record.dof), decimal(other.dof), "exact"],
        ["knots", count(record.n_knots), count(record.n_distinct), "exact"],
        ["RMSE on the samples", decimal(record.rmse, digits=4), decimal(other.rmse, digits=4), "measured"],
    ]
    if record.gcv is not None:
        rows.append(
            [
                "GCV, an estimate of it elsewhere",
                decimal(_root(record.gcv), digits=4),
                decimal(_root(other.gcv), digits=4),
                "measured",
            ]
        )
    return rows


def band_sentence(record: FitRecord) -> str:
    """Return what the band covers, or nothing without a band."""
    return "" if record.band is None else f"The {record.band.method} band covers {record.band.covers}."


def how(record: FitRecord) -> str:
    """Return what was asked for and what it took, in one line."""
    loss = record.loss if record.parameter is None else f"{record.loss} {decimal(record.parameter)}"
    weight = "" if record.weight_name is None else f", weights {record.weight_name}"
    unit = f" ({record.x_unit})" if record.x_unit else ""
    return (
        f"{record.y_name} against {record.x_name}{unit}{weight}; loss {loss}; "
        f"lambda_max {decimal(record.lam_max, digits=4)}; {decimal(record.seconds)} s, of which the fit "
        f"{decimal(record.seconds_fit)} s; peak memory {decimal(record.peak_memory_mb)} MB"
    )


def _kind(name: str) -> str:
    return kind_of(FitRecord, name)


def _root(value: float) -> float:
    return value**0.5 if value >= 0 else float("nan")


def _chosen(record: FitRecord) -> str:
    if record.path is None:
        return "given"
    rule = ", one-standard-error rule" if record.one_standard_error else ""
    return f"chosen by {CRITERIA.get(record.chosen_by, record.chosen_by)}{rule} out of {len(record.path.lams)}"
