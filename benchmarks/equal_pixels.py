"""What scale strategies learn from the same number of training pixels, on `shapes`, over several seeds.

    python benchmarks/equal_pixels.py --seeds 3

Batches have about equal pixels in all arms, and every arm stops after the same number of canvases (256 x 192 images).
Finding negative chips costs extra, which is not counted: the proposal network is trained for two epochs of positive
chips (about 2,700 canvases) and looks at every image of the pyramid once.
"""

from arms import Arm, compare

CHIPS = 42 * 96 * 96 / (256 * 192)
PYRAMID = {"pyramid": ["test=[multi_scale,soft_nms]"]}

ARMS = {
    "single_scale": Arm(
        ["strategy=[single_scale,flip]", "data.batch_size=8"], 8.0, {"one scale": ["test=[single_scale]"]} | PYRAMID
    ),
    "multi_scale": Arm(["strategy=[multi_scale,flip]", "data.batch_size=4"], 4 * (4 + 1 + 0.25) / 3, PYRAMID),
    "sniper_no_negatives": Arm(
        ["strategy=[sniper_no_negatives,flip]", "data.batch_size=42"], CHIPS, {"own ranges": []}
    ),
    "sniper": Arm(["strategy=[sniper,flip]", "data.batch_size=42"], CHIPS, {"own ranges": []}),
}

if __name__ == "__main__":
    compare(ARMS, __doc__, "equal_pixels")
