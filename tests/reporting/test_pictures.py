"""Pictures of grey images are those of three equal channels."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from scatsimclr.reporting.pictures import photo, sheet

GREY = np.random.default_rng(0).integers(0, 256, (5, 20, 12, 1), np.uint8)


def test_a_grey_image_is_shown_as_it_is():
    content = base64.b64decode(photo(GREY[0]).partition(",")[2])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), GREY[0, ..., 0])


@pytest.mark.parametrize("side", [8, 96])
def test_a_sheet_of_grey_images_is_that_of_three_equal_channels(side):
    one, size = sheet(GREY, 3, side)
    three, same = sheet(np.repeat(GREY, 3, 3), 3, side)
    assert size == same
    np.testing.assert_array_equal(np.asarray(one), np.asarray(three))
