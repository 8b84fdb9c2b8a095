"""Classes with few objects are named where AP is printed."""

from lightning_det.evaluation.rare_classes import hardly_learned, rare_classes, rarely_learned


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


def test_classes_that_a_training_hardly_meets_are_named():
    said = rarely_learned({"car": 2429, "bus": 76, "truck": 3, "cyclist": 0})
    assert "(truck 3, bus 76); strategy=[...,class_balanced]" in said
    assert rarely_learned({"car": 2429, "bus": 100, "cyclist": 0}) == ""  # enough of them
    assert rarely_learned({"car": 90, "bus": 9}) == ""  # not much rarer than the rest
    assert rarely_learned({"car": 91, "bus": 9}) != ""
    assert rarely_learned({}) == ""


def test_classes_that_are_hardly_found_are_named():
    row = {"AP": 0.1, "boxes": 20}
    found = {"hole": row | {"AP50": 0.9}, "spur": row | {"AP50": 0.04}, "short": row | {"AP50": None}}
    assert "Hardly learned: spur AP50 0.04, short AP50 0.00." in hardly_learned(found)
    few = {"spur": {"AP": 0.0, "AP50": 0.0, "boxes": 9}, "hole": row | {"AP50": 0.2}}
    assert hardly_learned(few) == hardly_learned({}) == ""  # too few objects to tell, or found
