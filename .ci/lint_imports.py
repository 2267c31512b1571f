"""Check the import contracts of .ci/contracts.toml: `python .ci/lint_imports.py [OPTIONS OF lint-imports]`.

In their lists, "<plugins>" stands for the plugins that pyproject.toml registers as entry points.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    plugins = ", ".join(f'"{name}"' for name in sorted(project["entry-points"]["distillkit"]))
    contracts = (ROOT / ".ci/contracts.toml").read_text(encoding="utf-8").replace('"<plugins>"', plugins)
    path = os.pathsep.join([str(ROOT), str(ROOT / "plugins")])
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "contracts.toml")
        config.write_text(contracts, encoding="utf-8")
        command = [str(Path(sys.executable).with_name("lint-imports")), str(config), *sys.argv[1:]]
        return subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
