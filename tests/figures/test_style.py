"""Names of scans, cases and materials are drawn literally, whatever characters they contain."""

import io

import numpy as np
import pytest
from matplotlib.text import Text

from pcctlearn.figures.style import new_figure, show_image

NAMES = ["a$b", "$", "$x$ and $", "\\$", "$\\frac{$", "^{_", "$\\nonsense$", "[/b]", "100 %"]


def drawn(figure):
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_drawn_literally_in_titles_labels_and_legends(name):
    figure = new_figure(3.0, 3.0)
    left, right = figure.subplots(1, 2)
    show_image(left, np.eye(3), (0.0, 1.0), name)
    right.barh([name, "other"], [1, 2], label=name)
    right.set(xlabel=name, ylabel=name)
    right.legend()
    figure.suptitle(name)
    drawn(figure)
    texts = [text for text in figure.findobj(Text) if text.get_text() == name]
    assert len(texts) >= 5
    assert not any(text.get_parse_math() for text in texts)


def test_powers_on_logarithmic_axes_stay_formulas():
    figure = new_figure(3.0, 3.0)
    axes = figure.subplots()
    axes.loglog([1, 1e6], [1, 1e6])
    drawn(figure)
    labels = [text for text in figure.findobj(Text) if "10^" in text.get_text()]
    assert labels
    assert all(text.get_parse_math() for text in labels)


def test_the_color_bar_of_an_image_names_its_unit():
    figure = new_figure(3.0, 3.0)
    show_image(figure.subplots(), np.eye(3), (0.0, 1.0), "unit matrix", unit="HU")
    assert "HU" in [axis.get_ylabel() for axis in figure.axes]
