"""``pathnorm reconstruct``: an image from measurements, and how far it is from the best."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import pathnorm
from pathnorm.cli.arguments import add_common, count, positive
from pathnorm.cli.operator_arguments import add_operator_arguments, measurements_from, operator_from, read_arrays
from pathnorm.cli.output import Outcome, progress_bars, talk
from pathnorm.errors import MissingExtraError
from pathnorm.report.folder import new_folder, refuse_existing
from pathnorm.report.style import new_figure

if TYPE_CHECKING:
    from pathnorm.imaging import Reconstruction

__all__ = ["add_reconstruct"]

OPTIONAL_FILES = frozenset({"image.png"})
_RULES = ("discrepancy", "sure")


def add_reconstruct(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "reconstruct",
        help="make an image from measurements, with a lower bound on what any image can reach",
        description="Minimise 1/2 ||A x - y||^2 / s^2 + lam R(x) over images, and prove how far the answer is from the "
        "best. Writes image.npz, image.png and record.json.",
    )
    parser.set_defaults(verb=_reconstruct)
    parser.add_argument("measurements", metavar="FILE", type=Path, help=".npz: ksp, sinogram or y, and the operator's")
    add_operator_arguments(parser)
    parser.add_argument("--regularizer", choices=("tv", "wavelet", "tv+wavelet"), default="tv", help="R (tv)")
    parser.add_argument("--wavelet", metavar="NAME", default="db4", help="of PyWavelets, orthonormal (db4)")
    parser.add_argument(
        "--lam",
        metavar="LAM",
        type=_lam,
        default="discrepancy",
        help="a number in units of the image; or discrepancy or sure, which need --noise (discrepancy)",
    )
    parser.add_argument("--noise", metavar="S", type=positive, help="standard deviation of a measurement's noise")
    parser.add_argument("--tol", metavar="GAP", type=positive, default=1e-5, help="relative gap to stop at (1e-5)")
    parser.add_argument("--max-iter", metavar="N", type=count, default=2_000, help="steps at most (2000)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder to write the image and its record to")
    add_common(parser)


def _lam(text: str) -> float | str:
    """A positive number or a rule."""
    if text in _RULES:
        return text
    try:
        return positive(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"a positive number, or {' or '.join(_RULES)}, is needed, got {text!r}"
        ) from None


def _reconstruct(arguments: argparse.Namespace) -> Outcome:
    imaging = pathnorm.imaging  # first, because it says which extra is missing
    out: Path | None = arguments.out
    if out is not None:
        refuse_existing(out, force=arguments.force)
    if isinstance(arguments.lam, str) and arguments.noise is None:
        raise ValueError(
            f"--lam {arguments.lam} needs --noise, the noise of a measurement. Give it, or a number as --lam."
        )
    arrays = read_arrays(arguments.measurements)
    operator = operator_from(arguments, arrays)
    with progress_bars() as progress:
        found = imaging.reconstruct(
            measurements_from(arguments, arrays),
            operator,
            arguments.regularizer,
            arguments.lam,
            noise=arguments.noise,
            wavelet=arguments.wavelet,
            tol=arguments.tol,
            max_iter=arguments.max_iter,
            seed=arguments.seed,
            progress=progress,
        )
    record = found.to_dict()
    report: dict[str, Any] = {"verb": "reconstruct"}
    if out is not None:
        files = _write(found, record, out, force=arguments.force)
        talk(f"written to {out}: {', '.join(files)}")
        report |= {"out": str(out), "files": files}
    return Outcome(str(found), report | {"record": record})


def _write(found: Reconstruction, record: dict[str, Any], out: Path, *, force: bool) -> list[str]:
    """Write the folder and return the names of its files."""
    image = found.image.numpy()
    with new_folder(out, force=force, stale=OPTIONAL_FILES) as made:
        # With the dual variables, so that the bound can be computed again.
        dual: dict[str, Any] = {f"dual_{place}": part.numpy() for place, part in enumerate(found.dual)}
        np.savez_compressed(made / "image.npz", image=image, **dual)
        (made / "record.json").write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        try:
            _draw(np.abs(image) if np.iscomplexobj(image) else image, made / "image.png")
        except MissingExtraError as error:
            talk(f"no image.png: {error}")
        return sorted(path.name for path in made.iterdir())


def _draw(image: np.ndarray[Any, Any], path: Path) -> None:
    """Write the image, grey from its smallest to its largest value, a pixel for a pixel or more."""
    height, width = image.shape
    zoom = max(1, round(512 / max(height, width)))
    figure = new_figure(zoom * width / 100, zoom * height / 100)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.imshow(image, cmap="gray", interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    figure.savefig(path, dpi=100)
