"""The performance page and other pages' tables: what the command makes of the committed results, and of small ones."""

import json
import re

import pytest

from benchmarks import page
from benchmarks.gpu import tables as gpu_tables
from benchmarks.plots import FIGURES, digest, draw
from benchmarks.records import load
from tests.benchmarks.records import record

LIMITS = {"cpu": {"float32_flop_per_s": 2e11, "bfloat16_flop_per_s": 4e11, "copy_bytes_per_s": 2e10}}
ORIGIN = {
    "machine_info": {
        "limits": LIMITS, "versions": {"numpy": "2"}, "cpu": {"brand_raw": "A CPU"}, "isa": "avx512", "threads": 2,
        "gpu": None, "python_version": "3.11", "torch": "2.13",
    },
    "commit_info": {"id": "0123456789abcdef", "dirty": True},
    "datetime": "2026-11-25T12:00:00",
}  # fmt: skip


@pytest.fixture(scope="module")
def committed():
    return {path.name: load(path) for path in page.COMMITTED}


def trained():
    return json.loads(page.ACCURACY.read_text(encoding="utf-8"))


def test_the_page_is_what_the_committed_results_say(committed):
    text = page.PAGE.read_text(encoding="utf-8")
    figures = re.findall(r"\(performance/(\w+)\.svg\)", text)
    assert figures == [*FIGURES, "accuracy"]
    gpus = gpu_tables.sections(page.GPU_RECORDS, page.markdown)
    assert text == page.page(committed, list(FIGURES), "performance", trained(), gpus)


def test_the_marked_tables_are_what_the_committed_results_say(committed):
    records = [entry for _, found in committed.values() for entry in found]
    tables = page.blocks(records, trained())
    names = []
    for path in page.MARKED:
        text = path.read_text(encoding="utf-8")
        names += re.findall(r"<!-- performance: (\w+) -->", text)
        assert text == page.inserted(text, tables)
    assert names == ["accuracy", "headline", "install", "augment", "scattering2d", "ntxent"]
    for op, case, peer in page.HEADLINE:
        assert f"| {op} | {case} | {peer} |" in tables["headline"]


def test_the_plots_show_the_committed_results(committed):
    expected = digest([entry for _, found in committed.values() for entry in found])
    plot = page.PAGE.parent / "performance" / "accuracy.svg"
    assert digest(trained()) in plot.read_text(encoding="utf-8")
    for name in FIGURES:
        assert expected in (page.PAGE.parent / "performance" / f"{name}.svg").read_text(encoding="utf-8")


def test_every_committed_result_says_where_it_is_from(committed):
    for name, (found, records) in committed.items():
        machine = found["machine_info"]
        assert records, name
        assert not machine["quick"], name
        assert "node" not in machine
        assert found["commit_info"].keys().isdisjoint({"project", "branch"})
        assert {"limits", "versions", "isa", "threads", "torch"} <= machine.keys()
        for entry in records:
            assert {"ours", *entry["peers"]} <= entry["competitors"].keys()
            assert entry["missing"].keys().isdisjoint(entry["peers"])


def growing():
    """Records of every kind that the figures show."""
    work = {"work": {"flop": 1e9, "bytes": 1e6}}
    memory = {"competitors": {"ours": {"median_s": 1.0, "quartiles_s": [1, 1], "rounds": 3, "peak_mb": 5.0}}}
    return [
        record("scattering2d forward", {"shape": (1, 3, 8, 8), "J": 2}, ours=0.1, kymatio=2.0, changes=work),
        *(
            record("NT-Xent cpu float32", {"M": m, "D": 128}, ours=0.1, plain=0.05, changes=work)
            for m in (8, 16, 32)
        ),
        *(
            record(
                "training step of ours", {"blocks": 8, "size": size, "batch": batch}, ours=1.0, changes=memory
            )
            for size, batch in ((32, 16), (32, 32), (48, 32))
        ),
        record("threads", ours=1.0, changes={"peers": []}, **{"ours, one thread": 1.9}),
    ]


def write(path, records):
    path.write_text(json.dumps({**ORIGIN, "benchmarks": [{"extra_info": entry} for entry in records]}))
    return str(path)


def test_a_page_of_ones_own(tmp_path, capsys):
    records = growing()
    source, output = write(tmp_path / "local.json", records), tmp_path / "out" / "performance.md"
    before = [path.read_bytes() for path in (*page.MARKED, page.PAGE)]
    assert page.main([source, "--output", str(output)]) == 0
    assert [path.read_bytes() for path in (*page.MARKED, page.PAGE)] == before
    text = output.read_text(encoding="utf-8")
    assert text.index("NT-Xent cpu float32: M=8, D=128: plain takes 0.50") < text.index("## All groups")
    assert "| 1×3×8×8, J=2 | 100 ms | 20 |" in text
    assert (
        "`local.json`: 2026-11-25, commit 0123456789 with changes, A CPU (avx512), 2 threads, no GPU" in text
    )
    for name in FIGURES:
        assert (output.parent / "performance" / f"{name}.svg").read_text(encoding="utf-8").startswith("<?xml")
        assert f"(performance/{name}.svg)" in text


def test_files_of_ones_own_never_become_the_committed_page(tmp_path):
    with pytest.raises(SystemExit):
        page.main([write(tmp_path / "local.json", growing())])


def test_plots_are_left_out_where_records_do_not_suffice(tmp_path):
    assert draw([record(ours=1.0)], {}, tmp_path) == []
    assert draw([record(ours=1.0, plain=2.0)], LIMITS, tmp_path) == ["ratios"]


def test_plots_have_the_same_bytes_again(tmp_path):
    for folder in ("one", "other"):
        draw(growing(), LIMITS, tmp_path / folder)
    for name in FIGURES:
        one, other = ((tmp_path / folder / f"{name}.svg").read_bytes() for folder in ("one", "other"))
        assert one == other


def test_tables_go_between_their_markers_alone():
    text = "a\n<!-- performance: one -->\nold\n<!-- end -->\nb\n"
    new = page.inserted(text, {"one": "| new |"})
    assert new == "a\n<!-- performance: one -->\n| new |\n<!-- end -->\nb\n"
    assert page.inserted(new, {"one": "| new |"}) == new
    with pytest.raises(KeyError):
        page.inserted(text, {"two": ""})
