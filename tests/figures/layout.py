"""Whether the parts of a figure overlap."""

from itertools import combinations


def assert_free(figure):
    """Panels with their texts, caption and legend are inside the figure and do not overlap."""
    figure.canvas.draw()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    boxes.append(figure._supxlabel.get_window_extent())
    boxes += [legend.get_window_extent() for legend in figure.legends]
    for box in boxes:
        assert figure.bbox.x0 - 1 <= box.x0 and box.x1 <= figure.bbox.x1 + 1
        assert figure.bbox.y0 - 1 <= box.y0 and box.y1 <= figure.bbox.y1 + 1
    for one, other in combinations(boxes, 2):
        across = min(one.x1, other.x1) - max(one.x0, other.x0)
        upward = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert min(across, upward) <= 1.0  # pixels


def caption(figure):
    """The text below, in one line."""
    return figure.get_supxlabel().replace("\n", " ")
