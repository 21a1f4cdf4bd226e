"""Objects compiled for a wide instruction set must not offer symbols that the linker would take for everyone."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

BUILD = Path(__file__).parent.parent / "build"


def test_isa_objects_export_only_their_own_namespace():
    objects = [p for p in BUILD.rglob("*.o") if re.search(r"_kernel\.(avx2|avx512|avx512_bf16|avx512_amx)\.o$", p.name)]
    if not objects or shutil.which("nm") is None:
        pytest.skip("needs the build folder of an editable install, and nm")
    for path in objects:
        isa = path.name.split(".")[-2]
        listed = subprocess.run(["nm", "-C", "--defined-only", str(path)], capture_output=True, text=True, check=True)
        weak = [line for line in listed.stdout.splitlines() if re.match(r"^[0-9a-f]+ [WVu] ", line)]
        # DW.ref.* is a pointer to the language runtime's own handler: data, the same in every object.
        foreign = [line for line in weak if f"dlperf::{isa}::" not in line and " DW.ref." not in line]
        assert foreign == [], f"{path.name}: {foreign[:3]}"
