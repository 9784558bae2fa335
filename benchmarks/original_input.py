"""The original's side of training_input.py: mmsegmentation's training pipeline with two worker processes.

    python original_input.py IMAGES LABELS BATCH

makes one batch for each line of its standard input, and prints "done". It needs the packages of
tests/golden/make_networks.py.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests" / "golden"))

import without_compiled_ops  # noqa: E402

without_compiled_ops.install()

import mmseg.datasets  # noqa: E402, F401
import torch  # noqa: E402
from mmengine.dataset import Compose, pseudo_collate  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402

PIPELINE = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=(2048, 1024), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(512, 1024), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]


class Pairs(torch.utils.data.Dataset):
    """Augmented examples of the files in two folders, repeated without an end."""

    def __init__(self, images, labels):
        self.pairs = list(zip(*(sorted(pathlib.Path(folder).iterdir()) for folder in (images, labels)), strict=True))
        init_default_scope("mmseg")
        self.pipeline = Compose(PIPELINE)

    def __len__(self):
        return 1 << 30

    def __getitem__(self, index):
        image, label = self.pairs[index % len(self.pairs)]
        info = dict(img_path=str(image), seg_map_path=str(label), reduce_zero_label=False, seg_fields=[])
        return self.pipeline(info)


def limit_threads(_):
    """Leaves each worker process one thread."""
    import cv2

    cv2.setNumThreads(0)  # as in the released configurations: opencv_num_threads=0
    torch.set_num_threads(1)


def main(images, labels, batch):
    init_default_scope("mmseg")
    loader = torch.utils.data.DataLoader(
        Pairs(images, labels),
        batch_size=int(batch),
        num_workers=2,
        persistent_workers=True,
        collate_fn=pseudo_collate,
        worker_init_fn=limit_threads,
    )
    batches = iter(loader)
    for _ in sys.stdin:
        next(batches)
        print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
