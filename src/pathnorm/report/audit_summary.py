"""What an audit says in plain sentences: what is safe to remove, what other data may change, what is not proved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from pathnorm.report.audit import AuditRecord, GroupAudit
from pathnorm.report.numbers import count, decimal, percent
from pathnorm.report.reasons import few

__all__ = ["Finding", "findings", "headline"]

# Neurons closer to balance than this are called balanced.
_BALANCED = 0.05

# Upper bounds that exceed what was attained by more than this say little.
_LOOSE = 1e4


class Finding(NamedTuple):
    """A sentence and its kind: ``exact``, ``certified`` or ``measured``."""

    kind: str
    text: str


def headline(record: AuditRecord) -> str:
    """Return one sentence about the size of the network and the state of its neurons."""
    if not record.groups:
        return (
            f"The network has {count(record.params)} parameters, and none of its layers has neurons that could be "
            "taken out: see what was left alone."
        )
    dead = sum(group.dead_measured for group in record.groups)
    return (
        f"The network has {count(record.params)} parameters and {_many(record.neurons, 'neuron')} in "
        f"{_many(len(record.groups), 'layer')} that could be made smaller; {count(record.active)} are active on "
        f"{_many(record.samples, 'sample')}, {count(record.dead_proved + record.duplicates_proved)} are redundant for "
        f"every input, and {count(dead)} more were silent on these samples."
    )


def findings(record: AuditRecord) -> tuple[Finding, ...]:
    """Return the sentences, those that are proved first."""
    found = [*_proved(record), *_seen(record)]
    looked = [group for group in record.groups if group.reconstruction is not None]
    if looked:
        found += [*_widths(looked), *_path_norm(looked), *_rows(looked), *_constant(looked)]
    if record.groups:
        found.append(_balance(record.groups))
    return (*found, *_limits(record))


def _proved(record: AuditRecord) -> list[Finding]:
    dead, twins = record.dead_proved, record.duplicates_proved
    if not record.groups:
        return []
    if dead + twins == 0:
        return [Finding("certified", "No neuron is redundant for every input, as far as the weights alone show.")]
    reasons = [
        *([f"{count(dead)} {_is(dead)} zero for every input or not read by any layer"] if dead else []),
        *([f"{count(twins)} {_is(twins)} collinear with another one"] if twins else []),
    ]
    return [
        Finding(
            "certified",
            f"{_many(dead + twins, 'neuron')} can be removed without any change of the function, whatever the input: "
            f"{' and '.join(reasons)}.",
        )
    ]


def _seen(record: AuditRecord) -> list[Finding]:
    dead = sum(group.dead_measured for group in record.groups)
    twins = sum(max((group.duplicates_measured or 0) - group.duplicates_proved, 0) for group in record.groups)
    found = []
    if dead:
        found.append(
            Finding(
                "measured",
                f"{_many(dead, 'neuron')} {_was(dead)} zero on all {_many(record.samples, 'sample')}; other data may "
                f"wake {'it' if dead == 1 else 'them'}.",
            )
        )
    if twins:
        found.append(
            Finding(
                "measured",
                f"{_many(twins, 'neuron')} {_was(twins)} proportional to another one on these samples, which the "
                "weights do not explain; on other data they may differ.",
            )
        )
    return found


def _widths(groups: Sequence[GroupAudit]) -> list[Finding]:
    facts = [group.reconstruction for group in groups if group.reconstruction is not None]
    total = sum(group.width for group in groups)
    parts, bounds = [], []
    for index, first in enumerate(facts[0].predicted):
        error = percent(first.error, digits=0)
        parts.append(f"{count(sum(fact.predicted[index].width for fact in facts))} for {error}")
        bounds.append(f"{count(sum(fact.predicted[index].lower_bound for fact in facts))} for {error}")
    return [
        Finding(
            "measured",
            f"Of {count(total)} neurons, a network is predicted to need {' and '.join(parts)} relative error in each "
            "layer's own outputs. The errors of layers add up, so that of the whole network is larger: `pathnorm "
            "compress` makes the network, refits every layer to the original and measures it on samples kept back.",
        ),
        Finding(
            "certified",
            f"However the neurons are chosen and refitted, the layers need at least {' and '.join(bounds)} error on "
            "these samples, all layers together.",
        ),
    ]


def _path_norm(groups: Sequence[GroupAudit]) -> list[Finding]:
    known = [
        (group.path_norm, fact.path_norm_found, fact.path_norm_lower_bound, fact.target_error)
        for group in groups
        if (fact := group.reconstruction) is not None and fact.path_norm_found is not None
    ]
    total = sum(norm for norm, *_ in known)
    if not total > 0.0:
        return []
    found = 1.0 - sum(item[1] or 0.0 for item in known) / total
    most = 1.0 - sum(item[2] or 0.0 for item in known) / total
    where = "" if len(known) == len(groups) else f" of {len(known)} of {len(groups)} layers"
    return [
        Finding(
            "certified",
            f"At least {percent(max(found, 0.0))} and at most {percent(max(most, 0.0))} of the path norm{where} is not "
            f"needed: other output weights of the same neurons give the layers' outputs up to "
            f"{percent(known[0][3], digits=0)} on these samples. An optimum of weight decay has nothing to spare but "
            "for that error.",
        )
    ]


def _rows(groups: Sequence[GroupAudit]) -> list[Finding]:
    poor = [(group.name, fact) for group in groups if (fact := group.reconstruction) and not fact.enough_rows]
    if not poor:
        return []
    times = max(math.ceil((fact.features + 1) / max(fact.rows, 1)) for _, fact in poor)
    return [
        Finding(
            "measured",
            f"In {_many(len(poor), 'layer')} ({few([name for name, _ in poor], most=4)}) the data have fewer rows than "
            "there are features: ranks, widths and excess there say how few the data are, not what the network "
            f"needs. Use at least {times} times as many samples.",
        )
    ]


def _constant(groups: Sequence[GroupAudit]) -> list[Finding]:
    names = [
        group.name for group in groups if (fact := group.reconstruction) and group.active and not fact.rank_features
    ]
    if not names:
        return []
    return [
        Finding(
            "measured",
            f"The neurons of {_many(len(names), 'layer')} ({few(names, most=4)}) have the same values on all samples, "
            "up to rounding: nothing of the input gets through, and no neuron is needed for outputs that are constant.",
        )
    ]


def _balance(groups: Sequence[GroupAudit]) -> Finding:
    balanced = [group for group in groups if abs(group.balance[3]) <= _BALANCED]
    where = "all layers" if len(balanced) == len(groups) > 1 else f"{len(balanced)} of {_many(len(groups), 'layer')}"
    normed = any(group.activations and "BatchNorm" in group.theorem_reason for group in groups)
    note = (
        " Weights in front of a BatchNorm have no scale of their own, so next to one this is no sign of a training "
        "that has not converged."
        if normed
        else ""
    )
    return Finding(
        "exact",
        f"Weight decay balances ||w|| and ||v|| of every homogeneous neuron at its stationary points. In {where} the "
        f"median neuron is within {_BALANCED} of balance; the worst neuron is at "
        f"{max(group.balance_worst for group in groups):.2f} (0 is balance, 1 is all on one side).{note}",
    )


def _limits(record: AuditRecord) -> list[Finding]:
    found = []
    lower = "" if record.lipschitz_lower is None else f" An attack found a factor of {decimal(record.lipschitz_lower)}."
    if record.lipschitz_upper is None:
        reason = record.lipschitz_reason.removeprefix("not certifiable: ").rstrip(".")
        found.append(Finding("exact", f"The Lipschitz constant is not certifiable: {reason}.{lower}"))
    else:
        found.append(
            Finding(
                "certified",
                f"No two inputs are driven further apart than by a factor of {decimal(record.lipschitz_upper)} "
                f"(Euclidean norms).{lower}{_loose(record)}",
            )
        )
    if record.skipped:
        many = sum(item.width for item in record.skipped)
        found.append(
            Finding(
                "exact",
                f"{_many(many, 'neuron')} of {_many(len(record.skipped), 'layer')} {_is(many)} not in any group, so "
                "nothing is said about them; the reasons are listed.",
            )
        )
    missing = [group for group in record.groups if group.missing]
    if missing:
        found.append(
            Finding(
                "exact",
                f"Of {_many(len(missing), 'layer')} only the weights were looked at: "
                f"{few([f'{group.name}, {group.missing}' for group in missing], most=4)}.",
            )
        )
    return found


def _loose(record: AuditRecord) -> str:
    lower, upper = record.lipschitz_lower, record.lipschitz_upper
    if not lower or upper is None or upper < _LOOSE * lower:
        return ""
    return " The bound multiplies the norms of all layers, and is too far above that to be of use."


def _many(number: int, what: str) -> str:
    return f"{count(number)} {what}{'' if number == 1 else 's'}"


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


def _was(number: int) -> str:
    return "was" if number == 1 else "were"
