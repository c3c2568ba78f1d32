"""``pathnorm audit-reconstructor``: say how far a reconstruction can be trusted."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pathnorm
from pathnorm.cli.arguments import add_common, count, natural, positive
from pathnorm.cli.operator_arguments import add_operator_arguments, images_from, operator_from, read_arrays
from pathnorm.cli.output import Outcome, progress_bars, talk, write_record
from pathnorm.errors import DataError
from pathnorm.report.folder import refuse_existing

if TYPE_CHECKING:
    from pathnorm.imaging import Operator

__all__ = ["add_audit_reconstructor"]


def add_audit_reconstructor(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "audit-reconstructor",
        help="say how accurate, how stable and how inventive an image reconstruction is",
        description="Say how accurate, how stable and how inventive an image reconstruction is, beside total variation "
        "on the same data. FACTORY is called with the operator and returns a callable from the measurements of one "
        "image (a tensor) to the image (H, W).",
    )
    parser.set_defaults(verb=_audit)
    parser.add_argument("factory", metavar="FACTORY", help="package.module:callable or file.py:callable")
    parser.add_argument(
        "--data", metavar="D.npz", type=Path, required=True, help="images (B, H, W), and the operator's arrays"
    )
    add_operator_arguments(parser)
    parser.add_argument(
        "--noise", metavar="S", type=positive, required=True, help="standard deviation of a measurement's noise"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder to write report.html and record.json to")
    parser.add_argument("--samples", metavar="N", type=count, help="use the first N images only")
    parser.add_argument("--no-reference", action="store_true", help="do not audit total variation beside it")
    parser.add_argument("--lam", metavar="L", type=positive, help="of total variation (by discrepancy)")
    parser.add_argument(
        "--size", metavar="P", type=positive, help="of perturbations / measurements (that of the noise)"
    )
    parser.add_argument("--attacked", metavar="N", type=count, default=2, help="images to attack, the first (2)")
    parser.add_argument("--steps", metavar="N", type=count, default=20, help="of an attack (20)")
    parser.add_argument("--restarts", metavar="N", type=natural, default=1, help="random starts of an attack (1)")
    parser.add_argument("--draws", metavar="N", type=count, default=8, help="random perturbations per image (8)")
    parser.add_argument("--details", metavar="N", type=natural, default=3, help="small details per image (3)")
    parser.add_argument("--single", action="store_true", help="hand measurements over in single precision")
    add_common(parser)


def _audit(arguments: argparse.Namespace) -> Outcome:
    imaging = pathnorm.imaging  # first, because it says which extra is missing
    out: Path | None = arguments.out
    if out is not None:
        refuse_existing(out, force=arguments.force)
    arrays = read_arrays(arguments.data)
    images = images_from(arrays)[: arguments.samples]
    operator = operator_from(arguments, arrays)
    build = _factory(arguments.factory)
    with progress_bars() as progress:
        record = imaging.audit_reconstructor(
            build(operator),
            operator,
            images,
            noise=arguments.noise,
            reference=None if arguments.no_reference else "tv",
            options=_options(imaging, arguments, build),
            progress=progress,
        )
    report: dict[str, Any] = {"verb": "audit-reconstructor"}
    if out is not None:
        files = write_record(record, out, force=arguments.force)
        talk(f"written to {out}: {', '.join(files)}")
        report |= {"out": str(out), "files": files}
    return Outcome(str(record), report | {"record": record.to_dict()})


def _options(imaging: Any, arguments: argparse.Namespace, build: Callable[[Operator], Any]) -> Any:
    import torch

    return imaging.AuditOptions(
        size=arguments.size,
        draws=arguments.draws,
        attacked=arguments.attacked,
        steps=arguments.steps,
        restarts=arguments.restarts,
        details=arguments.details,
        rebuild=build,
        dtype=torch.float32 if arguments.single else None,
        reference_lam=arguments.lam,
        seed=arguments.seed,
    )


def _factory(spec: str) -> Callable[[Operator], Any]:
    """Return what builds a reconstructor for an operator, with an error that names it."""
    from pathnorm.deep.sources import load_factory

    factory = load_factory(spec)

    def build(operator: Operator) -> Any:
        try:
            return factory(operator)
        except Exception as error:
            raise DataError(
                f"{spec} must return a reconstructor when called with the operator; it raised {type(error).__name__}: "
                f"{str(error).partition(chr(10))[0]}. It takes one argument, with A and A_adjoint."
            ) from error

    return build
