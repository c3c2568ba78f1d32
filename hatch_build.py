"""Put the programs of ``experiments/`` into the wheel, for ``pathnorm reproduce``; their results stay out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ExperimentsInWheel(BuildHookInterface):  # type: ignore[misc]
    """Adds files to a wheel; a checkout (editable) has them already."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the files: the experiments, and the benchmarks whose parts they use."""
        if version == "editable":
            return
        for folder in ("experiments", "benchmarks"):
            for path in sorted(Path(self.root, folder).glob("*.py")):
                build_data["force_include"][str(path)] = f"pathnorm/_reproduce/{folder}/{path.name}"
