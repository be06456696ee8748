"""The figures of compiled GPU kernels: what is read from machine code, estimates, and the table of docs/gpu.md."""

from __future__ import annotations

import json

import pytest

from benchmarks import gpu_figures
from benchmarks.gpu import sass

CODE = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;       /* 0x00000a00 */
        /*0010*/                   LDGSTS.E.128 [R2], [R4.64] ;
""" + "".join(
    f"        /*{16 * i:04x}*/                   {word} ;\n"
    for i, word in enumerate(
        [
            *["IADD3 R0, R0, 0x1, RZ"] * 4,
            *["HMMA.16816.F32 R8, R4, R6, R8"] * 3,
            *["MUFU.EX2 R9, R9"] * 2,
            "@!P0 LDGSTS.E.128 [R2], [R4.64]",
            "BAR.SYNC.DEFER_BLOCKING 0x0",
            *["FADD R1, R1, R2"] * 20,
            "@P1 BRA 0x40",  # the loop: from the third IADD3
            *["FADD R1, R1, R2"] * 30,
            "@P2 BRA `(.L_x_1) 0x220",  # a longer one, without products
            "EXIT",
        ],
        start=2,
    )
)


def test_the_loop_of_the_products_is_found():
    loop = sass.hottest(CODE)
    assert loop.instructions == 2 + 3 + 2 + 1 + 1 + 20 + 1
    assert loop.counts == {"matrix": 3, "mufu": 2, "barriers": 1, "local": 0, "async": 1}
    assert loop.inner == 0
    assert sass.hottest("        /*0000*/                   EXIT ;\n") is None


def test_estimates():
    options = {"B": 128, "BI": 128, "BD": 128, "num_warps": 8, "PRECISION": "ieee"}
    launch = {"kernel": ["", "forward_triangle_kernel"], "options": options}
    # 2·128³ operations at 4,096 a cycle; 684 instructions of 8 warps, 4 a cycle; 64 MUFU of 256 threads, 16 a cycle.
    figures = {"instructions": 684, "mufu": 64, "inner": 0}
    assert gpu_figures.shares(90, launch, figures) == {
        "at most": pytest.approx(1024 / 1368, abs=1e-3),
        "in turns": pytest.approx(1024 / 2392, abs=1e-3),
    }
    assert gpu_figures.shares(90, launch, figures | {"inner": 3}) == {}
    tiles = {"PM": 64, "PN": 64, "PH": 32, "PW": 32, "SPLIT": False, "num_warps": 4}
    path = {"kernel": ["", "path_kernel"], "options": tiles}
    products = (2 * 4 * 2 * 64**3 + 2 * 32 * 64 * 64 + 2 * 32 * 64 * 32) / 4096
    figures = {"instructions": 1304, "mufu": 34, "inner": 315}
    assert gpu_figures.shares(90, path, figures)["at most"] == pytest.approx(
        products / (1304 + 3 * 315), abs=1e-3
    )
    split = {**path, "options": {**tiles, "SPLIT": True}}
    assert gpu_figures.work(split) == 3 * gpu_figures.work(path)
    slower = {**launch, "options": {**options, "PRECISION": "tf32"}}
    assert gpu_figures.work(slower) == 2 * gpu_figures.work(launch)


def test_the_page_shows_the_committed_figures():
    found = json.loads(gpu_figures.RESULTS.read_text(encoding="utf-8"))
    page = gpu_figures.PAGE.read_text(encoding="utf-8")
    assert gpu_figures.written(page, found) == page
    for name, by_capability in found["figures"].items():
        assert by_capability
        assert set(by_capability) <= {str(cc) for cc in gpu_figures.CAPABILITIES}
        if name.startswith("NT-Xent"):
            assert all(figures["spills"] == 0 for figures in by_capability.values()), name


def test_the_recorded_launches_are_those_of_the_figures():
    pytest.importorskip("triton", reason="triton is not installed")
    code = "import benchmarks.gpu_figures as g, json; print(json.dumps([*g.launches(90)]))"
    from tests.kernels.ahead_of_time import run

    found = json.loads(gpu_figures.RESULTS.read_text(encoding="utf-8"))
    assert json.loads(run(code)) == [*found["figures"]]
