"""The command line: ``pathnorm fit``, ``audit``, ``compress``, ``reconstruct``, ``audit-reconstructor`` and others.

Results go to stdout, as a table or as one JSON object; talk, warnings and progress go to stderr. The exit
status is 0 if it went well, 1 if the run failed or a claim does not hold, 2 for misuse and 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

import pathnorm
from pathnorm.cli.audit import add_audit
from pathnorm.cli.audit_reconstructor import add_audit_reconstructor
from pathnorm.cli.compress import add_compress
from pathnorm.cli.demo import add_demo
from pathnorm.cli.fit import add_fit
from pathnorm.cli.output import Outcome, say, short_warnings, talk
from pathnorm.cli.reconstruct import add_reconstruct
from pathnorm.cli.reproduce import add_reproduce
from pathnorm.errors import PathnormError

__all__ = ["entry", "main"]


def entry() -> None:
    """Run the command line and leave with its exit status."""
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0 if it went well, 1 if it failed, 2 for misuse, 130 after Ctrl-C."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has said what it had to say
        return 0 if stop.code is None else int(stop.code)
    try:
        with short_warnings():
            outcome: Outcome = arguments.verb(arguments)
        say(outcome, as_json=arguments.json)
    except KeyboardInterrupt:
        talk("interrupted; nothing half-written is left")
        return 130
    except BrokenPipeError:
        # The reader has gone. Python would complain again when it flushes stdout at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (PathnormError, ValueError, TypeError, OSError) as error:
        if arguments.debug:
            traceback.print_exc()
        talk(f"error: {error}")
        # The library's own failures are those of the run; the others are about what was asked for.
        return 1 if isinstance(error, (PathnormError, OSError)) else 2
    return outcome.status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pathnorm",
        description="Sparse regularisation of neural networks, and what is known about the result.",
    )
    parser.add_argument("--version", action="version", version=f"pathnorm {pathnorm.__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    add_fit(verbs)
    add_audit(verbs)
    add_audit_reconstructor(verbs)
    add_compress(verbs)
    add_reconstruct(verbs)
    add_reproduce(verbs)
    add_demo(verbs)
    return parser
