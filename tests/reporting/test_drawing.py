"""Charts, masks and disks: what is drawn is where it belongs, readable in both themes, and escaped."""

import io
import itertools
import re

import numpy as np
import pytest
import torch
from PIL import Image

from scatsimclr import Scattering2D
from scatsimclr.reporting import charts, pictures, wavelets
from scatsimclr.reporting.assets import asset
from scatsimclr.reporting.charts import Dots, Line


def opened(content):
    return Image.open(io.BytesIO(content))


def test_a_line_chart_spans_its_values_and_skips_what_is_not_finite():
    svg = charts.line_chart(
        [Line("a<b", [(1, 2.0), (2, float("nan")), (5, 4.0)]), Line("c", [(1, 3.0)])], "t & u"
    )
    assert "a&lt;b" in svg
    assert 'aria-label="t &amp; u"' in svg
    first = re.search(r'class="line k0" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', svg)
    left, low, right, high = map(float, first.groups())
    assert (left, right) == (charts.LEFT, charts.WIDTH - charts.RIGHT)
    assert low > high
    assert "nan" not in svg
    assert charts.line_chart([Line("", [])], "t") == ""
    assert charts.line_chart([Line("", [(0, float("inf"))])], "t") == ""


@pytest.mark.parametrize("last", [2, 3, 7, 12, 20, 23, 99, 100, 101, 1000, 1013])
def test_the_last_epoch_has_a_tick_and_none_touches_it(last):
    svg = charts.line_chart([Line("", [(epoch, 1.0 * epoch) for epoch in range(last + 1)])], "t")
    found = re.findall(rf'<text x="([\d.]+)" y="{charts.HEIGHT - 9}" text-anchor="middle">(\d+)</text>', svg)
    assert [found[0][1], found[-1][1]] == ["0", str(last)]
    spans = [(float(x) - 3.3 * len(text), float(x) + 3.3 * len(text)) for x, text in found]
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(spans))
    assert spans[-1][1] <= charts.WIDTH


def test_what_was_measured_once_is_no_line():
    assert charts.line_chart([Line("a", [(1, 2.0)]), Line("b", [(1, 3.0)])], "t") == ""


def test_a_dot_plot_shows_what_was_measured_and_what_was_published():
    series = [
        Dots("x<y", [(50.0, 2.0), None], [None, 70.0]),
        Dots("z", [(60.0, 0.0), (40.0, 1.0)], [None, None]),
    ]
    svg = charts.dot_plot(["one", "two"], series, "t", "accuracy")
    assert "x&lt;y" in svg
    assert svg.count('class="line') == 3
    assert svg.count(f'd="{charts.SHAPES[0]}"') == 3 + 2
    assert svg.count('class="hollow') == 1 + 1
    assert charts.dot_plot(["one"], [Dots("x", [None], [None])], "t", "accuracy").count("hollow") == 0


@pytest.mark.parametrize(
    "values", [(0.0, 0.0), (5.0, 5.0), (1e-5, 3e-4), (-3.0, 7.0), (0.97, 0.98), (-2e9, 1e9)]
)
def test_ticks_are_few_round_and_around_the_values(values):
    low, high, ticks = charts._scale(*values)
    assert low <= values[0] <= values[1] <= high
    assert low < high
    assert 2 <= len(ticks) <= 7
    assert ticks == sorted(set(ticks))
    assert all(len(charts._number(tick)) <= 8 for tick in ticks)


def test_points_keep_their_proportions_inside_the_map():
    points = np.array([[0.0, 0.0], [1.0, 4.0], [0.5, 2.0]])
    found = charts.placed(points)
    assert found.min() >= charts.MARGIN
    assert found.max() <= charts.MAP - charts.MARGIN
    distance = np.linalg.norm(found[:, None] - found[None], axis=2)
    expected = np.linalg.norm(points[:, None] - points[None], axis=2)
    assert distance == pytest.approx(expected * distance.max() / expected.max())
    assert np.isfinite(charts.placed(np.zeros((2, 2)))).all()


def test_the_confusion_matrix_names_what_it_counts():
    svg = charts.confusion(np.array([[3, 1], [0, 2]]), ["<a>", "b" * 40], "m")
    assert "&lt;a&gt; taken for " + "b" * 40 + ": 1" in svg
    assert svg.count("<rect") == 3
    assert "<a>" not in svg
    large = charts.confusion(np.eye(100, dtype=int), [str(i) for i in range(100)], "m")
    assert large.count("<rect") == 100


def test_a_mask_carries_its_values_as_opacity():
    values = np.linspace(0, 1, 256).reshape(16, 16)
    rgba = np.asarray(opened(pictures.mask(values)).convert("RGBA"))
    assert np.array_equal(rgba[..., 3], np.arange(256).reshape(16, 16))
    assert {tuple(colour) for colour in rgba[..., :3].reshape(-1, 3)} == {pictures.MASK_COLOUR}


def test_a_sheet_has_every_image_in_its_place():
    images = np.stack([np.full((60, 30, 3), 20 * i, np.uint8) for i in range(7)])
    sheet, (width, height) = pictures.sheet(images, 3, 20)
    assert (width, height) == (10, 20)
    assert sheet.size == (30, 60)
    for i in range(7):
        assert sheet.getpixel((i % 3 * width + 5, i // 3 * height + 10)) == (20 * i,) * 3


def stripes(degrees, period=4.0):
    """Images whose brightness changes along the direction `degrees`, from downwards (0) to rightwards (90)."""
    rows, columns = np.meshgrid(np.arange(32), np.arange(32), indexing="ij")
    angle = np.radians(degrees)
    wave = np.cos(2 * np.pi / period * (rows * np.cos(angle) + columns * np.sin(angle)))
    return torch.from_numpy(wave).float().expand(3, 32, 32)


@pytest.mark.parametrize("degrees", [0, 45, 90, 135])
@pytest.mark.parametrize(("period", "scale"), [(2.7, 0), (5.3, 1)])
def test_stripes_light_the_disk_in_their_direction_and_at_their_scale(degrees, period, scale):
    found = wavelets.coefficients(Scattering2D(2, (32, 32), 8), stripes(degrees, period))
    alpha = np.asarray(opened(wavelets.first_order_disk(found)).convert("RGBA"))[..., 3].astype(float)
    middle = wavelets.DISK / 2
    radius = (0.75, 0.375)[scale] * middle / 1.04
    place = [
        alpha[
            int(middle + radius * np.cos(np.radians(turn))), int(middle + radius * np.sin(np.radians(turn)))
        ]
        for turn in (degrees, degrees + 180)
    ]
    assert place == [255, 255]
    across = np.radians(degrees + 90)
    assert alpha[int(middle + radius * np.cos(across)), int(middle + radius * np.sin(across))] < 60
    assert alpha[0, 0] == 0


def test_coefficients_are_those_of_the_transform():
    scattering = Scattering2D(3, (32, 32), 4)
    x = torch.randn(3, 32, 32)
    found = wavelets.coefficients(scattering, x)
    plain = scattering(x).double().square().mean(0).sqrt().numpy()
    assert found.first.reshape(12, 4, 4) == pytest.approx(plain[1:13], rel=1e-5, abs=1e-7)
    j1, t1, j2, t2 = np.nonzero(found.second)
    assert len(j1) == 4 * 4 * 3
    assert (j2 > j1).all()
    assert np.sort(found.second[j1, t1, j2, t2]) == pytest.approx(np.sort(plain[13:].mean((1, 2))), rel=1e-5)


@pytest.mark.parametrize(("J", "L"), [(1, 1), (1, 4), (2, 16), (4, 3)])
def test_every_front_end_can_be_drawn(J, L):
    scattering = Scattering2D(J, (32, 48), L)
    found = wavelets.coefficients(scattering, torch.zeros(3, 32, 48) if L == 3 else torch.randn(3, 32, 48))
    drawn = [wavelets.wavelets(scattering, j) for j in range(J)] + [wavelets.low_pass(scattering)]
    drawn += [wavelets.first_order_disk(found), wavelets.disks_in_place(found)]
    drawn += [wavelets.second_order_disk(found)] if J > 1 else []
    for content in drawn:
        picture = opened(content)
        picture.load()
        assert min(picture.size) >= wavelets.SMALL_DISK
        assert len(content) < 400_000


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_contrast_is_that_of_wcag_aa(theme):
    block = asset("theme.css").split("@media")[theme]
    colours = dict(re.findall(r"--([\w]+): (#[0-9a-f]{6})", block))
    paper = luminance(colours.pop("paper"))
    assert len(colours) == 16
    del colours["line"]
    for name, colour in colours.items():
        light, dark = sorted((luminance(colour), paper), reverse=True)
        needed = 3.0 if re.fullmatch(r"c\d", name) else 4.5
        assert (light + 0.05) / (dark + 0.05) >= needed, name
