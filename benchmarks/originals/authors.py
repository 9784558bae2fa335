"""DeepLab's authors' code of October 2018. It needs what tests/golden/make_authors.py needs, PYTHONPATH included.

ADE20K's label maps have the size of the resized picture, where the authors count; label 0 does not count there.
"""

import sys

sys.argv = ["make_authors.py", "--full"]  # which it reads when it builds a network
import make_authors as original  # noqa: E402
import numpy as np  # noqa: E402
from deeplab import common, input_preprocess, model  # noqa: E402
from PIL import Image  # noqa: E402
from support.drawn import images  # noqa: E402

from originals import from_confusion  # noqa: E402

tf = original.tf
common.FLAGS(["authors"])
LOGITS = "logits/semantic"
CLASSES = {"voc": 21, "cityscapes": 19, "ade20k": 151}
CROPS = {"voc": (513, 513), "cityscapes": (1025, 2049), "ade20k": (513, 513)}  # height, width
FULL_ONLY = "The authors' networks are compared at full size: leave --narrow out."


class Original:
    """The facts of a row are those of the authors' page of models (g3doc/model_zoo.md)."""

    weights = "model.ckpt"

    def __init__(self, name, folder, full, first):
        if not full:
            raise SystemExit(FULL_ONLY)
        data = next(key for key in CLASSES if key in name)
        self.name, self.num_classes, self.crop = name, CLASSES[data], CROPS[data]
        self.stride = 8 if name == "mobilenetv2_dm05_coco_voc_trainval" else 16
        self.ignore, self.side = (0, 513) if data == "ade20k" else (255, None)
        if name == "mobilenetv2_ade20k_train":
            self.side, self.crop = 257, (257, 257)
        mobile = name.startswith("mobilenetv2")
        backbone = "mobilenetv2_tf" if mobile else name.split("_")[0]
        widths = {"base_channels": 16 if "dm05" in name else 32} if mobile else {}
        cls = "DeepLabV3" if mobile and data != "ade20k" else "DeepLabV3Plus"
        original.FULL[name] = cls, backbone, {**widths, "dense_prediction_cell": "dpc" in name}
        original.CLASSES = self.num_classes
        self.classifier = self.spread(np.array(Image.open(first)))
        self.session = tf.Session(graph=tf.Graph())
        with self.session.graph.as_default():
            self.image = tf.placeholder(tf.uint8, [1, None, None, 3])
            self.predicted = model.predict_labels(*self.padded(self.image[0]))[common.OUTPUT_TYPE][0]
            for variable in tf.global_variables():
                variable.load(self.drawn(variable), self.session)
            tf.train.Saver().save(self.session, str(folder / self.weights), write_meta_graph=False)

    def padded(self, image):
        """A picture as the network gets it, (1, *crop, 3), and the network's `ModelOptions`."""
        options = original.options_of(self.name, self.stride, self.crop)
        # Their code takes one step off a limit that is a multiple of it plus one.
        limit = self.side and self.side + self.stride
        limits = dict(min_resize_value=limit, max_resize_value=limit)
        _, padded, _ = input_preprocess.preprocess_image_and_label(
            image,
            None,
            *self.crop,
            **limits,
            resize_factor=self.stride if self.side else None,
            is_training=False,
            model_variant=common.FLAGS.model_variant,
        )
        return padded[None], options

    def spread(self, image):
        """A classifier that gives every class mean 0 and deviation 1 over a picture: all of them win somewhere."""

        def scores():
            found = model.multi_scale_logits(*self.padded(tf.constant(image)), [1.0])
            return found[common.OUTPUT_TYPE][model.MERGED_LOGITS_SCOPE]

        scores = original.run(scores)[0]
        step = (self.crop[0] - 1) // (scores.shape[0] - 1)
        scores = scores[tuple(slice((side - 1) // step + 1) for side in image.shape[:2])].reshape(-1, self.num_classes)
        mean, deviation = scores.mean(0), scores.std(0)
        shapes = {"weights": (1, 1, 256, self.num_classes), "biases": (self.num_classes,)}
        weight, bias = (original.weights(f"{LOGITS}/{part}", shape) for part, shape in shapes.items())
        return {f"{LOGITS}/weights": weight / deviation, f"{LOGITS}/biases": (bias - mean) / deviation}

    def drawn(self, variable):
        name = variable.op.name
        return self.classifier.get(name, original.weights(name, variable.shape.as_list()))

    def logits(self, height, width):
        def scores():
            options = original.options_of(self.name, self.stride, (height, width))
            x = tf.constant(images(height, width).astype("float32"))
            found = model.multi_scale_logits(x, options, [1.0])[common.OUTPUT_TYPE][model.MERGED_LOGITS_SCOPE]
            return tf.image.resize_bilinear(found, (height, width), align_corners=True)  # as `predict_labels`

        return original.run(scores, self.classifier)

    def labels(self, path):
        image = np.array(Image.open(path))
        labels = self.session.run(self.predicted, {self.image: image[None]})
        return labels[: image.shape[0], : image.shape[1]]


def scores(found, truth, num_classes, ignore):
    found, truth = (np.concatenate([array.ravel() for array in maps]).astype(np.int64) for maps in (found, truth))
    counted = truth != ignore
    with tf.Graph().as_default(), tf.Session() as session:
        maps = (tf.constant(array) for array in (truth * counted, found))
        mean, update = tf.metrics.mean_iou(*maps, num_classes, weights=tf.constant(counted, tf.float32))
        session.run(tf.local_variables_initializer())
        result = from_confusion(session.run(update))
        assert abs(100 * session.run(mean) - result["mIoU"]) < 1e-3  # which they compute in float32
    return result
