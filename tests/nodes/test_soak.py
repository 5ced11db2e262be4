"""The long run: what it measures, its verdict, and its section in a page."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from vdd_ros.cli.main import main
from vdd_ros.core.errors import VddError
from vdd_ros.nodes import reload
from vdd_ros.nodes.torture.report import soak_markdown, soak_sections, with_section
from vdd_ros.nodes.torture.soak import GROWTH_KB, Memory, Soak, memory_of


def _soak(growth_kb: float, resident_kb: float = 0.0, **other: int) -> Soak:
    """A run of an hour whose memory grows steadily after the warm-up, and jumps within it."""

    def memory(at_s: int) -> Memory:
        if at_s < 60:
            return Memory(at_s, 2e6, 1e6, 0.0)
        part = (at_s - 60) / 3540
        # Libraries' pages are private or not as others come and go.
        clean = 11_000.0 if at_s // 600 % 2 else 0.0
        return Memory(at_s, 1.2e5 + resident_kb * part, 5e4 + growth_kb * part, clean)

    looks = [memory(at_s) for at_s in range(0, 3602, 2)]
    soak = Soak(100.0, 3600.0, 60.0, looks, commands=360_000, calls=18_000)
    for name, value in other.items():
        setattr(soak, name, value)
    return soak


def test_growth_is_measured_after_the_warm_up_and_fails_the_run() -> None:
    """The medians of both ends and the slope find what was put in, whatever happened before."""
    for growth, passed in ((0.0, True), (900.0, True), (3000.0, False)):
        for soak in (_soak(growth), _soak(0.0, growth)):
            trend = max(soak.dirty, soak.resident, key=lambda t: t.growth_kb)
            assert trend.growth_kb == pytest.approx(growth, rel=0.02)
            slope = growth * 3600 / 3540
            assert trend.slope_kb_per_hour == pytest.approx(slope, rel=1e-6, abs=1e-6)
            assert soak.passed is passed
            assert f"**{'PASS' if passed else 'FAIL'}**" in soak_markdown(soak, "vdd torture")
    assert _soak(GROWTH_KB / 2).passed


def test_one_missing_reply_is_enough_to_fail() -> None:
    """As are a refusal, a command out of limits, a silent hold, and a run that called nothing."""
    for name in ("missed_replies", "refused", "outside", "silent"):
        assert not _soak(0.0, **{name: 1}).passed
    assert not _soak(0.0, calls=0).passed
    assert not Soak(100.0, calls=1).passed, "nothing was measured"


@pytest.mark.skipif(reload._TRIM is None, reason="needs the GNU C library")
def test_what_lies_free_between_kept_blocks_goes_back_to_the_system() -> None:
    """The library keeps it by itself, as nothing at the end of its heap was freed."""
    before = memory_of(os.getpid()).dirty
    blocks = [bytearray(b"x" * 60_000) for _ in range(1000)]
    del blocks[:-1]
    reload.give_back()
    assert memory_of(os.getpid()).dirty - before < 20_000
    assert len(blocks[0]) == 60_000


def test_memory_that_a_process_has_for_itself_is_seen() -> None:
    """A block that is written to counts whole; a process that is not there is named."""
    before = memory_of(os.getpid())
    block = bytearray(os.urandom(1 << 20) * 32)
    after = memory_of(os.getpid())
    assert after.dirty - before.dirty > 0.9 * len(block) / 1024
    assert after.resident - before.resident > 0.9 * len(block) / 1024
    with pytest.raises(VddError, match="its node alive"):
        memory_of(1 << 30)


def test_its_section_takes_the_place_of_the_one_before() -> None:
    """Whatever stands before and after it in the page stays."""
    first, second = (soak_markdown(_soak(g), "vdd torture") for g in (0.0, 3000.0))
    page = with_section("# Title\n\ntext\n", first)
    assert page == f"# Title\n\ntext\n\n{first}"
    assert soak_sections(page) == [first]
    longer = page + "\n## Another\n\nmore\n"
    assert with_section(longer, second) == f"# Title\n\ntext\n\n{second}\n## Another\n\nmore\n"
    assert soak_sections(longer) == [first]
    assert soak_sections("# Title\n") == []
    assert with_section("", first) == first
    loaded = soak_markdown(_soak(0.0), "vdd torture", burners=2)
    assert soak_sections(with_section(page, loaded)) == [first, loaded]


def test_the_command_measures_a_real_node(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A few seconds: calls are answered, memory is sampled, limits kept, the section written."""
    page = tmp_path / "page.md"
    page.write_text("# Title\n")
    status = main(["torture", "--soak", "0.05", "--markdown", str(page), "--json"])
    answer = json.loads(capfd.readouterr().out)
    assert status == (0 if answer["passed"] else 1)
    assert answer["calls"] > answer["reloads"] >= 1
    assert answer["missed_replies"] == answer["refused"] == answer["outside"] == 0, answer
    assert all(m["resident"] > m["dirty"] > 1000 for m in answer["memory"])
    assert page.read_text().startswith("# Title\n\n## A long run\n")
    assert main(["torture", "--soak", "-1"]) == 2
