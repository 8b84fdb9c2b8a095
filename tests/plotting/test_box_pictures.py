"""Objects of ten pixels can be seen in pictures: lines around them, labels beside them, a key below the picture."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_det.plotting.boxes import draw_boxes, page
from lightning_det.plotting.colours import GREY, PALETTE, class_colour
from lightning_det.plotting.key import with_key
from lightning_det.plotting.objects import class_key, draw_objects, enlargement
from lightning_det.plotting.outlines import line_widths
from lightning_det.plotting.placement import place_labels
from lightning_det.plotting.text import fit, text_width

RED = (255, 0, 0)


def blank(width, height, level=128):
    return np.full((height, width, 3), level, np.uint8)


def is_colour(picture, colour):
    return (picture == np.array(colour)).all(axis=2)


def test_no_pixel_of_an_object_is_covered():
    boxes = np.array([[20.3, 30.6, 30.3, 40.6], [100, 50, 180, 120], [110, 60, 120, 70]])
    picture = draw_boxes(blank(4000, 200), boxes, ["", "", ""], [RED] * 3)
    for x1, y1, x2, y2 in [(20, 30, 31, 41), (110, 60, 120, 70)]:
        assert (picture[y1:y2, x1:x2] == 128).all()
        frame = is_colour(picture[y1 - 1 : y2 + 1, x1 - 1 : x2 + 1], RED)
        assert frame[0].all()
        assert frame[-1].all()
        assert frame[:, 0].all()
        assert frame[:, -1].all()
    outside = picture[25:30, 20:31]
    assert (outside[0] == 128).all()  # the line is thin
    assert (outside < 128).any()  # and a dark one sets it off from a bright background


def test_lines_follow_the_sizes_of_object_and_picture():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 80, 80], [0, 0, 600, 600.0]])
    assert line_widths(boxes, 4000) == pytest.approx([1.25, 5, 10])
    assert line_widths(boxes, 640) == pytest.approx([1.25, 1.6, 1.6])


@pytest.mark.parametrize("box", [[0, 0, 60, 40], [-5, -5, 70, 50], [0, 0, 0, 0], [59, 39, 60, 40]])
def test_edges_at_the_border_are_visible(box):
    picture = draw_boxes(blank(60, 40), np.array([box], float), [""], [RED])
    assert is_colour(picture, RED).any()


def test_small_boxes_lie_on_large_ones():
    boxes = np.array([[40, 40, 50, 50], [20, 20, 200, 45.0]])
    picture = draw_boxes(blank(300, 200), boxes, ["", ""], [RED, (0, 0, 255)])
    assert is_colour(picture, RED)[39, 39:51].all()


def test_broken_lines_have_gaps():
    box = np.array([[10, 10, 110, 60.0]])
    solid = draw_boxes(blank(200, 100), box, [""], [RED])
    broken = draw_boxes(blank(200, 100), box, [""], [RED], dashed=[True])
    assert 0.3 < is_colour(broken, RED).sum() / is_colour(solid, RED).sum() < 0.7


def test_the_given_image_is_not_changed():
    pixels = blank(50, 50)
    draw_boxes(pixels, np.array([[10, 10, 20, 20.0]]), ["x"], [RED])
    draw_boxes(pixels, np.zeros((0, 4)), [], [])
    assert (pixels == 128).all()


# Labels


def overlap(first, second):
    return min(first[2], second[2]) > max(first[0], second[0]) and min(first[3], second[3]) > max(first[1], second[1])


sides = st.tuples(st.integers(0, 280), st.integers(0, 180), st.integers(1, 120), st.integers(1, 120))


@settings(max_examples=200, deadline=None)
@given(st.lists(sides, min_size=1, max_size=25), st.integers(5, 80), st.integers(5, 20))
def test_a_label_never_covers_another_object_or_label(drawn, width, height):
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in drawn], float)
    sizes = np.tile([width, height], (len(boxes), 1))
    places = place_labels(boxes, sizes, (300, 200), np.ones(len(boxes), bool), force=False)
    labels = {n: (p[0], p[1], p[0] + width, p[1] + height) for n, p in enumerate(places) if p is not None}
    for number, label in labels.items():
        assert label[0] >= 0
        assert label[1] >= 0
        assert label[2] <= 300
        assert label[3] <= 200
        assert not any(overlap(label, other) for n, other in labels.items() if n != number)
        own = boxes[number]
        for other in np.delete(boxes, number, axis=0):
            both = overlap(label, own) and (other[:2] <= own[:2]).all() and (other[2:] >= own[2:]).all()
            assert both or not overlap(label, other)


def test_places_of_labels():
    size, canvas = np.array([[40, 12]]), (300, 200)

    def place(*boxes, force=False):
        boxes = np.array(boxes, float)
        return place_labels(boxes, size.repeat(len(boxes), 0), canvas, np.arange(len(boxes)) == 0, force)[0]

    box = [100, 100, 120, 120]
    assert place(box) == (100, 88)  # above
    assert place([290, 100, 299, 120]) == (260, 88)  # moved into the picture
    assert place(box, [90, 80, 130, 99]) == (100, 120)  # below
    assert place(box, [90, 80, 130, 99], [90, 121, 130, 140]) == (120, 100)  # right
    assert place(box, [0, 0, 300, 200]) is None  # within another object
    assert place(box, [0, 0, 300, 200], force=True) == (100, 88)
    assert place([0, 0, 300, 200], [10, 50, 30, 60]) == (0, 0)  # inside at the top, as there is no other place
    assert place([10, 10, 290, 190], [0, 0, 300, 200]) == (10, 10)  # the part of both boxes that is its own


def texts(picture, below=0):
    """Number of pixels in the ink of labels."""
    return int(is_colour(picture[below:], (0, 0, 0)).sum())


def test_which_labels_are_drawn():
    alone = np.array([[50, 50, 60, 60.0]])
    crowd = np.array([[x, y, x + 9, y + 9] for x in range(10, 390, 10) for y in range(10, 190, 10)], float)

    def drawn(boxes, **how):
        return texts(draw_boxes(blank(400, 200), boxes, ["car 0.90"] * len(boxes), [(0, 200, 255)] * len(boxes), **how))

    assert drawn(alone) > 5
    assert drawn(alone, draw_labels=False) == 0
    assert drawn(crowd) == 0
    assert drawn(crowd, draw_labels=True) > 1000
    # Apart from each other, but so small and so many that their labels would be all there is to see.
    apart = np.array([[x, y, x + 5, y + 5] for x in range(10, 390, 60) for y in range(20, 190, 30)], float)
    assert drawn(apart) == 0
    assert drawn(apart[:8]) > 40


@pytest.mark.parametrize("level", [0, 255])
def test_boxes_stand_out_from_dark_and_bright_images(level):
    for colour in PALETTE:
        picture = draw_boxes(blank(60, 60, level), np.array([[20, 20, 30, 30.0]]), [""], [colour]).astype(int)
        assert np.abs(picture - level).max() > 100


def test_many_boxes_in_a_large_image_take_little_time():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 1, (500, 2)) * [3950, 2200]
    boxes = np.concatenate([corners, corners + rng.uniform(10, 40, (500, 2))], axis=1)
    pixels, start = blank(4000, 2250), time.process_time()
    draw_objects(pixels, boxes, np.arange(500) % 5, ("a", "b", "c", "d", "e"), rng.random(500))
    assert time.process_time() - start < 3


# Objects and keys


def test_objects_have_the_colours_of_their_classes_and_a_key():
    boxes = np.array([[20, 20, 60, 60], [100, 50, 140, 90], [200, 100, 240, 140.0]])
    picture = draw_objects(blank(300, 200), boxes, np.array([2, 0, 2]), ("car", "bus", "truck"), scale=2)
    assert picture.shape[1] == 600
    assert picture.shape[0] % 2 == 0
    image, key = picture[:400], picture[400:]
    for colour, part in ((class_colour(0), image), (class_colour(2), image), (class_colour(0), key)):
        assert is_colour(part, colour).any()
    assert not is_colour(key, class_colour(1)).any()
    assert is_colour(image[39:121, 39:121], class_colour(2)).any()
    assert class_key(np.array([2, 0, 2]), ("car", "bus", "truck")) == [
        ("car 1", class_colour(0)),
        ("truck 2", class_colour(2)),
    ]


def test_the_best_get_the_room_for_labels():
    """Two boxes with room for the label of one: below them is the end of the picture."""
    boxes = np.array([[20, 20, 44, 44], [46, 20, 70, 44.0]])
    labels, names = np.array([0, 1]), ("a long name", "another name")

    def shown(scores):
        picture = draw_objects(blank(112, 48), boxes, labels, names, np.array(scores))[:15]
        return [is_colour(picture, class_colour(n)).any() for n in (0, 1)]

    assert shown([0.9, 0.5]) == [True, False]
    assert shown([0.5, 0.9]) == [False, True]


def test_pictures_without_objects_stay_as_they_are():
    pixels = blank(30, 20)
    assert np.array_equal(draw_objects(pixels, np.zeros((0, 4)), np.zeros(0, int), ("a",)), pixels)


@pytest.mark.parametrize("width", [1, 30, 200, 4000])
@pytest.mark.parametrize("entries", [1, 5, 100])
def test_keys_fit_any_picture(width, entries):
    named = [(f"class number {n} with a long name", class_colour(n)) for n in range(entries)]
    picture = with_key(blank(width, 100), named)
    assert picture.shape[1] == width
    assert (picture[:100] == 128).all()
    assert picture.shape[0] % 2 == 0
    assert width < 200 or all(is_colour(picture, colour).any() for _, colour in named)


def test_texts_are_cut_to_a_width():
    assert fit("car", 12, 100) == "car"
    cut = fit("a name that is too long", 12, 60)
    assert cut.endswith("…")
    assert text_width(cut, 12) <= 60
    assert fit("", 12, -1) == ""


def test_hundreds_of_pictures_fit_onto_a_page():
    """A JPEG has at most 65,500 pixels along a side."""
    for count in (1, 12, 400):
        picture = np.broadcast_to(np.uint8(RED), (480, 8, 3))
        grid = page([picture] * count, ["image"] * count)
        assert max(grid.shape) < 65_500
        assert is_colour(grid, RED).sum() == count * 8 * 480


def test_enlargement_makes_small_objects_visible():
    def boxes(side):
        return np.tile([0, 0, side, side], (8, 1)).astype(float)

    assert enlargement(boxes(10), (640, 480)) == 2
    assert enlargement(boxes(4), (640, 480)) == 4
    assert enlargement(boxes(40), (640, 480)) == 1
    assert enlargement(boxes(10), (4000, 2250)) == 1  # large enough; it can be zoomed into
    assert enlargement(np.zeros((0, 4)), (64, 48)) == 1


# Colours

LMS = np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]])
LAB = np.array([[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]])
PROTAN = np.array([[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]])
DEUTAN = np.array([[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]])


def smallest_distance(colours, eye):
    """Smallest distance in Oklab of colours that an eye sees; 0.02 is what can just be told apart."""
    share = np.array(colours) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    seen = np.cbrt(np.clip(linear @ eye.T, 0, 1) @ LMS.T) @ LAB.T
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=2)
    return apart[np.triu_indices(len(colours), 1)].min()


def test_colours_of_twenty_classes_differ():
    assert len(set(PALETTE)) == 20
    assert smallest_distance([*PALETTE, GREY], np.eye(3)) > 0.1
    assert len({class_colour(label) for label in range(90)}) == 90


@pytest.mark.parametrize("eye", [PROTAN, DEUTAN])
def test_colours_of_few_classes_differ_for_eyes_that_see_no_red_or_green(eye):
    assert smallest_distance([*PALETTE[:4], GREY], eye) > 0.13
    assert smallest_distance(PALETTE[:8], eye) > 0.1
