"""Classes with few objects are named where AP is printed."""

from lightning_det.evaluation.rare_classes import rare_classes


def figures(**boxes):
    return {name: {"AP": None, "AP50": None, "boxes": count} for name, count in boxes.items()}


def test_classes_with_few_objects_are_named():
    said = rare_classes(figures(car=609, truck=1, bus=9, minibus=10, cyclist=0))
    assert "the mean over 4 classes" in said
    assert "(truck 1, bus 9)" in said


def test_long_lists_end():
    assert "and 3 more" in rare_classes(figures(**{f"class{k}": 1 for k in range(8)}))


def test_nothing_is_said_where_every_class_has_enough():
    assert rare_classes(figures(car=10, truck=300, cyclist=0)) == ""
    assert rare_classes({}) == ""
