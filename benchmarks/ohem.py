"""OHEM's first table in miniature: which RoIs carry loss, on `shapes` with much clutter, over several seeds.

    python benchmarks/ohem.py --seeds 3

All arms see the same images, six to ten look-alikes among three to eight objects each, have Fast R-CNN's box loss, and
keep 32 RoIs of an image, except the one that keeps all 300 proposals and the ground truth. Two go on from what random
sampling has learned, for as many steps again: the paper, too, starts from a trained network.
"""

from arms import Arm, compare

COMMON = ["dataset.source.decoys=[6,10]", "capacity.rois=32", "data.batch_size=8", "detector.box_beta=1.0"]

ARMS = {
    name: Arm([f"strategy=[single_scale,flip,{name}]", *COMMON], 8.0, {"one scale": []})
    for name in ("random_sampling_bg01", "random_sampling", "all_rois", "ohem")
}
ARMS |= {f"{name}_fine_tuned": ARMS[name]._replace(start="random_sampling") for name in ("random_sampling", "ohem")}

if __name__ == "__main__":
    compare(ARMS, __doc__, "ohem")
