"""DSOD beside SSD of equal size, both from scratch, and DSOD's ablation in miniature, on `shapes`, over several seeds.

    python benchmarks/from_scratch.py --seeds 3

All arms see the same images with the same augmentation and have the same priors, matching, losses and schedule. SSD has
BatchNorm nowhere, as published, or in its backbone and behind its predictions, as DSOD has it. Mirrored images are the
only augmentation: with SSD's whole augmentation no arm has learned anything after so few steps.
"""

from arms import Arm, compare

COMMON = ["strategy=[single_scale,flip]", "data.batch_size=8", "test.nms_iou=0.45"]
SSD = ["detector=ssd", "backbone=ssd_tiny"]
DSOD = ["detector=dsod", "backbone=dsod_tiny"]

OVERRIDES = {
    "ssd": SSD,
    "ssd_norm": [*SSD, "backbone.norm=batch", "detector.head_norm=batch"],
    "dsod": DSOD,
    "dsod_densenet_stem": [*DSOD, "backbone.stem=densenet"],
    "dsod_plain_prediction": [*DSOD, "backbone.prediction=plain"],
    "dsod_without_transition": [*DSOD, "backbone.transition_without_pooling=false"],
}

ARMS = {name: Arm([*own, *COMMON], 8.0, {"one scale": []}) for name, own in OVERRIDES.items()}

if __name__ == "__main__":
    compare(ARMS, __doc__, "from_scratch")
