"""The evidence of `make cuda`: docs/cuda.md has every row that the backend's operators need, on every target, and the
reading of compiler reports and disassemblies fails where it should."""

from pathlib import Path

import pytest

from dlperf.benchmarks import cuda_build
from dlperf.benchmarks.cuda_build import ROWS, TARGETS, Kernel

DOCUMENT = Path(__file__).parent.parent / "docs" / "cuda.md"

REPORT = """
ptxas info    : Compiling entry function '_Zone' for 'sm_90a'
ptxas info    : Function properties for _Zone
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 2048 bytes smem
ptxas info    : Compiling entry function '_Ztwo' for 'sm_90a'
ptxas info    : Function properties for _Ztwo
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers
"""


def rows_of_document() -> dict[tuple[str, str], list[str]]:
    rows = {}
    for line in DOCUMENT.read_text().splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if len(cells) == 8 and cells[1].startswith("sm_"):
            rows[cells[0], cells[1].removeprefix("sm_")] = cells[2:]
    return rows


def test_the_rows_are_those_that_were_asked_for():
    directions = [f"{norm} {way}" for norm in ("BN", "GN", "LN") for way in ("forward", "backward")]
    products = ["gemm", "conv fprop", "conv dgrad", "conv wgrad", "conv with BN statistics"]
    attention = ["attention forward", "attention, few keys", "attention backward"]
    assert list(ROWS) == [*products, "depthwise", "depthwise wgrad", *attention, *directions, "step", "dropout"]
    assert TARGETS == ("80", "90a", "100")


def test_the_document_has_every_row_and_nothing_spills():
    rows = rows_of_document()
    assert set(rows) == {(row, target) for row in ROWS for target in TARGETS}
    for key, (kernels, registers, spilled, stack, _, instructions) in rows.items():
        assert int(kernels) > 0 and int(registers) <= 255, key
        assert (int(spilled), int(stack)) == (0, 0), key
        if key[0].startswith(("gemm", "conv", "attention")):
            needed = {"HGMMA", "UTMALDG"} if key[1] == "90a" else {"HMMA", "LDGSTS"}
            assert needed <= set(instructions.split(", ")), key


def test_reports_are_read():
    one, two = cuda_build.parse_report(REPORT).values()
    assert (one.registers, one.spill, one.stack, one.shared) == (168, 20, 16, 2048)
    assert (two.registers, two.spill, two.stack, two.shared) == (32, 0, 0, 0)


def test_instructions_are_those_of_their_function():
    sass = "\n\tFunction : _Zone\n  HGMMA.64x256 R1\n UTMALDG.2D\n\tFunction : _Ztwo\n FFMA R1"
    assert cuda_build.instructions_of(sass) == {"_Zone": ["HGMMA", "UTMALDG"], "_Ztwo": []}


@pytest.mark.parametrize(
    "kernel, problem",
    [
        (Kernel("wgmma_kernel<bf16, 64>", "90a", 168, instructions=["HMMA"]), "no HGMMA or UTMALDG"),
        (Kernel("mma_kernel<bf16, 64, 64>", "80", 168, instructions=["HMMA"]), "no LDGSTS"),
        (Kernel("row_norm_kernel<bf16, 1, 1>", "80", 168, spill=4), "4 bytes spilled"),
        (Kernel("row_norm_kernel<bf16, 1, 1>", "80", 168, stack=16), "16 bytes of stack"),
        (Kernel("row_norm_kernel<bf16, 1, 1>", "80", 168, dynamic=200_000), "shared memory"),
    ],
)
def test_what_fails(kernel, problem):
    assert any(problem in p for p in cuda_build.problems_of(kernel, False, 166_912))


def test_a_row_without_a_kernel_is_missing():
    kernels = [Kernel("dropout_kernel<bf16>", target) for target in TARGETS]
    missing = cuda_build.missing_rows(kernels)
    assert ("step", "80") in missing and ("dropout", "80") not in missing


def test_a_file_is_compiled_again_when_a_header_of_its_headers_changes():
    names = {path.name for path in cuda_build.sources_of(cuda_build.SOURCES / "random.cu")}
    assert {"random.cu", "random_kernel.cuh", "philox.h", "common.h"} <= names
    assert "wgmma.cuh" not in names


def test_names_are_tidied():
    name = (
        "void dlperf::cuda::wgmma_kernel<dlperf::cuda::bf16, 256, dlperf::cuda::MatrixSource<(dlperf::cuda::Major)0, "
        "(dlperf::cuda::Major)1>, dlperf::cuda::MatrixPlace>(dlperf::cuda::WgmmaProblem<int>)"
    )
    assert cuda_build.tidy(name) == "wgmma_kernel<bf16, 256, MatrixSource<0, 1>, MatrixPlace>"
    assert Kernel(cuda_build.tidy(name), "90a").rows == ["gemm"]
