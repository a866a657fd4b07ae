"""Whether this system gives namespaces, asked without the code under test: a broken sandbox must not skip its own tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache


@cache
def namespaces_here() -> bool:
    if shutil.which("unshare") is None:
        return False
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *user, "--net", "--mount", "--pid", "--fork", "true"]
    return subprocess.run(command, capture_output=True).returncode == 0
