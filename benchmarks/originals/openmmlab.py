"""mmsegmentation 1.2.2. It needs the packages of tests/golden/make_networks.py."""

import make_networks as original
import numpy as np
import torch
from mmseg.evaluation.metrics import IoUMetric

original.init_default_scope("mmseg")


class Original:
    weights, ignore = "row.pth", 255

    def __init__(self, name, folder, full, first):
        cfg, self.model = original.build(original.configs()[name], full)
        original.spread(self.model, first, cfg)
        torch.save({"meta": {}, "state_dict": self.model.state_dict()}, folder / self.weights)
        self.pipeline, self.num_classes = next(original.pipelines(cfg, None)), self.model.num_classes

    def logits(self, height, width):
        return next(original.logits(self.model, height, width))[1]

    def labels(self, path):
        return original.run(self.model, self.pipeline, path)[2].argmax(0).numpy()


def scores(found, truth, num_classes, ignore):
    areas = []
    for maps in zip(found, truth, strict=True):
        maps = (torch.from_numpy(array.astype(np.int64)) for array in maps)
        areas.append(IoUMetric.intersect_and_union(*maps, num_classes, ignore))
    result = IoUMetric.total_area_to_metrics(*(sum(column) for column in zip(*areas, strict=True)), ["mIoU"])
    means = {f"m{key}": 100 * float(np.nanmean(result[key])) for key in ("IoU", "Acc")}
    iou = [None if np.isnan(value) else float(value) for value in result["IoU"]]
    return {**means, "aAcc": 100 * float(result["aAcc"]), "IoU": iou}
