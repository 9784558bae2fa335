"""DeepLabV3 and DeepLabV3+: pictures in, a score for each pixel and class out (Chen et al. 2017, 2018)."""

from contextlib import nullcontext
from operator import index

import keras

from keras_deeplab.catalog.protocol import Protocol
from keras_deeplab.keras_tools import at_least_float32, default_dtype
from keras_deeplab.networks.authors_head import authors_head
from keras_deeplab.networks.backbones import BACKBONES, OUTPUT_STRIDES
from keras_deeplab.networks.blocks import without_norms
from keras_deeplab.networks.decoder import auxiliary_head as openmmlab_auxiliary_head
from keras_deeplab.networks.fast.convolution import Purpose, default_purpose
from keras_deeplab.networks.head import head
from keras_deeplab.networks.layers import Normalize, ResizeLike
from keras_deeplab.networks.older_files import current_arguments
from keras_deeplab.networks.torchvision_head import torchvision_auxiliary_head, torchvision_head

HEADS = {  # {`Backbone.head`: (features in, scores out; the same for the auxiliary head)}
    "openmmlab": (head, openmmlab_auxiliary_head),
    "authors": (authors_head, openmmlab_auxiliary_head),  # the authors have no auxiliary head
    "torchvision": (torchvision_head, torchvision_auxiliary_head),
}
AUXILIARY_WEIGHT = 0.4  # of the auxiliary head's loss (Zhao et al. 2017)


class DeepLab(keras.Model):
    """The base class of `DeepLabV3` and `DeepLabV3Plus`. Use one of these two.

    Args:
        num_classes: number of classes, a positive integer.
        backbone: "r18", "r50", "r101" (ResNets whose stem is three 3x3 convolutions), "r18b", "r50b", "r101b" (whose stem
            is one 7x7 convolution, as torchvision's), "s101" (ResNeSt-101) or "mobilenetv2", all with OpenMMLab's heads; or
            "xception41", "xception65", "xception71" or "mobilenetv2_tf", with the authors' own; or "resnet50", "resnet101" or
            "mobilenet_v3_large", with torchvision's (DeepLabV3 only). Default "r50".
        output_stride: input pixels per pixel of the last stage: 8 (default), 16 or 32. A smaller one is more accurate and
            takes more time and memory.
        multi_grid: atrous rates of the blocks of the last stage, such as (1, 2, 4), in place of the stage's own. Default
            None. A ResNet has two or three such blocks, MobileNetV2 one.
        aspp_rates: atrous rates of ASPP's branches in pixels of the last stage; 1 stands for a 1x1 convolution. Default
            (1, 12, 24, 36) at output stride 8, (1, 6, 12, 18) at 16, (1, 3, 6, 9) at 32; MobileNetV3 has twice these rates.
        dense_prediction_cell: whether the cell of the released Xception-71 takes the place of ASPP. Only with the authors'
            heads. Default False.
        base_channels: width of a ResNet's first stage, which each later stage doubles (default 64), or of MobileNetV2's
            first convolution, to which its other widths are in proportion (default 32; MobileNetV3's 16); half the width of
            Xception's first module (default 64).
        stem_channels: width of a ResNet's or an Xception's stem. Default 64, of ResNeSt 128. MobileNets have none.
        aspp_channels: width of ASPP's branches and of the layers after them. Default 512, on R-18 128, with the authors'
            and torchvision's heads 256.
        low_level_channels: channels that the decoder reduces the first stage's features to (DeepLabV3+ only). Default 48, on
            R-18 12.
        auxiliary_channels: width of the auxiliary head. Default 256, on R-18 64, on MobileNetV3 10.
        auxiliary_head: whether to build the head that supervises the third stage in training (of MobileNetV3 the second).
            Default False.
        align_corners: whether bilinear resizes keep the centres of the corner pixels in place, as the released models of
            769x769 crops and the authors' models do. Default False, on Xception True.
        dropout: share of the channels that training sets to zero before each classifier, at least 0 and below 1. Default
            0.1. With torchvision's heads the share of the values after ASPP, default 0.5, of which the auxiliary head takes a
            fifth.
        out_channels: 1 gives a model of two classes a single output, the logit of class 1, as mmsegmentation's binary set-up
            has it. Default None: one output for each class.
        threshold: the probability above which that single output means class 1. Default 0.3, the original's.
        norms: False builds a network for inference, in which each convolution has a bias in place of its batch norm; see
            `fold_norms`. Default True.
        row: name of the released model whose weights this model has, or None (default).
        classes: a name for each class. Default "class 0", "class 1", ...
        palette: (R, G, B) of 0..255 for each class. Default PASCAL VOC's colours.
        protocol: a `Protocol`: the size and the windows in which `segment` and `evaluate` pass pictures to the model. Default
            the whole picture at its own size.
        frozen: names of the layers that training leaves as they are. Default none. `layer.trainable = False` has the same
            effect; files keep it.
        dtype: dtype policy, such as "mixed_bfloat16". Default Keras's global policy.
        name: name of the Keras model.

    Input shape:
        (N, H, W, 3), RGB of 0..255, uint8 or float, of any height and width.

    Output shape:
        (N, H, W, num_classes), float32 logits (float64 for dtype "float64"), or (N, H, W, 1) with `out_channels=1`. With the
        auxiliary head {"logits", "auxiliary"} of this shape.

    Raises:
        ValueError: for an argument that breaks a rule; the message names the rule.
        TypeError: for an unknown argument.

    Example:

    >>> model = DeepLabV3Plus(3, backbone="r18", output_stride=16, classes=("sky", "field", "house"))
    >>> model(np.zeros((1, 65, 97, 3), "uint8")).shape
    TensorShape([1, 65, 97, 3])
    """

    def __init__(
        self,
        num_classes,
        *,
        backbone="r50",
        output_stride=8,
        multi_grid=None,
        aspp_rates=None,
        dense_prediction_cell=False,
        base_channels=None,
        stem_channels=None,
        aspp_channels=None,
        low_level_channels=None,
        auxiliary_channels=None,
        auxiliary_head=False,
        align_corners=None,
        dropout=None,
        out_channels=None,
        threshold=0.3,
        norms=True,
        row=None,
        classes=None,
        palette=None,
        protocol=None,
        frozen=(),
        dtype=None,
        name=None,
        **renamed,
    ):
        if renamed:
            current = current_arguments(renamed, backbone=backbone, norms=norms, warn=True)
            backbone, norms = current["backbone"], current["norms"]
        require(backbone in BACKBONES, f"backbone must be one of {', '.join(BACKBONES)}", backbone)
        spec = BACKBONES[backbone]
        num_classes = positive_int("num_classes", num_classes)
        require(output_stride in OUTPUT_STRIDES, "output_stride must be 8, 16 or 32", output_stride)
        output_stride = index(output_stride)
        dropout = spec.dropout if dropout is None else dropout
        require(0 <= dropout < 1, "dropout must be a share of the channels, at least 0 and below 1", dropout)
        dropout = float(dropout)
        one_output = "out_channels must be None, or 1 for a model of 2 classes"
        require(out_channels is None or (out_channels, num_classes) == (1, 2), one_output, (out_channels, num_classes))
        require(0 < threshold < 1, "threshold must be a probability above 0 and below 1", threshold)
        outputs_per_pixel = out_channels or num_classes
        require(
            multi_grid is None or len(multi_grid) == spec.last_blocks,
            f"multi_grid must have one rate for each of the {spec.last_blocks} blocks of the last stage",
            multi_grid,
        )
        rule = "dense_prediction_cell needs a backbone with the authors' head, such as 'xception71'"
        require(not dense_prediction_cell or spec.head == "authors", rule, backbone)
        align_corners = spec.align_corners if align_corners is None else bool(align_corners)
        require(classes is None or len(classes) == num_classes, f"classes must have {num_classes} names", classes)
        require(palette is None or len(palette) == num_classes, f"palette must have {num_classes} colours", palette)
        if aspp_rates is None:
            aspp_rates = (max(1, rate * 8 // output_stride) for rate in spec.aspp_rates)
        aspp_rates = tuple(map(index, aspp_rates))
        multi_grid = None if multi_grid is None else tuple(map(index, multi_grid))
        widths = backbone_widths(backbone, base_channels=base_channels, stem_channels=stem_channels)
        aspp_channels = positive_int("aspp_channels", aspp_channels or spec.aspp_channels)
        auxiliary_channels = positive_int("auxiliary_channels", auxiliary_channels or spec.auxiliary_channels)
        if self.has_decoder:
            rule = "DeepLabV3Plus needs a backbone whose head has a decoder, such as 'r50b' in place of 'resnet50'"
            require(spec.low_level_channels, rule, backbone)
            low_level_channels = positive_int("low_level_channels", low_level_channels or spec.low_level_channels)
        else:
            rule = "low_level_channels must be left out for DeepLabV3, which has no decoder"
            require(low_level_channels is None, rule, low_level_channels)
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        logits_dtype = at_least_float32(policy.compute_dtype)

        with default_dtype(policy), nullcontext() if norms else without_norms():
            images = keras.Input((None, None, 3), name="images", dtype=at_least_float32(policy.variable_dtype))
            x = Normalize(spec.mean, spec.std, name="normalize")(images)
            features = spec.build(x, output_stride=output_stride, multi_grid=multi_grid, **widths)
            decode, supervise = HEADS[spec.head]
            scores = decode(
                features,
                outputs_per_pixel,
                channels=aspp_channels,
                rates=aspp_rates,
                cell=dense_prediction_cell,
                low_level_channels=low_level_channels,
                output_stride=output_stride,
                dropout=dropout,
                align_corners=align_corners,
            )
            outputs = ResizeLike(align_corners, name="logits", dtype=logits_dtype)([scores, images])
            if auxiliary_head:
                x = features[spec.auxiliary_stage]
                x = supervise(x, outputs_per_pixel, channels=auxiliary_channels, dropout=dropout)
                x = ResizeLike(align_corners, name="auxiliary", dtype=logits_dtype)([x, images])
                outputs = {"logits": outputs, "auxiliary": x}
        super().__init__(inputs=images, outputs=outputs, name=name)

        self.dtype_policy = policy  # Keras scales the loss of a model of policy "mixed_float16"
        self.num_classes = num_classes
        self.threshold = float(threshold) if out_channels else None
        self.row = row
        self.classes = tuple(classes) if classes else tuple(f"class {i}" for i in range(num_classes))
        self.palette = tuple(tuple(colour) for colour in palette) if palette else default_palette(num_classes)
        self.protocol = (
            protocol if isinstance(protocol, Protocol) else Protocol.from_dict(protocol or {"mode": "whole"})
        )
        self._config = dict(
            num_classes=num_classes,
            backbone=backbone,
            output_stride=output_stride,
            multi_grid=multi_grid,
            aspp_rates=aspp_rates,
            dense_prediction_cell=bool(dense_prediction_cell),
            **widths,
            aspp_channels=aspp_channels,
            auxiliary_channels=auxiliary_channels,
            auxiliary_head=auxiliary_head,
            align_corners=align_corners,
            dropout=dropout,
            out_channels=out_channels,
            threshold=float(threshold),
            norms=norms,
            **({"low_level_channels": low_level_channels} if self.has_decoder else {}),
        )
        for layer_name in frozen:
            self.get_layer(layer_name).trainable = False

    def __call__(self, inputs, *args, **kwargs):
        shape = getattr(inputs, "shape", (1,))
        if getattr(shape, "rank", 0) is None:
            raise ValueError(
                "Pictures must have a known number of axes. Received: a dataset whose pictures have none. Set their shape in "
                "its map function: tf.ensure_shape(image, [None, None, None, 3])."
            )
        if len(shape) and shape[0] == 0:  # TensorFlow's convolution of it returns its input
            raise ValueError(f"A batch must hold at least one picture. Received: shape {tuple(shape)}.")
        return super().__call__(inputs, *args, **kwargs)

    def call(self, inputs, training=None, mask=None):
        """Logits of pictures. A network without norms may compute convolutions in ways that are for inference only."""
        with nullcontext() if self._config["norms"] else default_purpose(Purpose.INFERENCE):
            return super().call(inputs, training=training, mask=mask)

    def compile(self, optimizer="rmsprop", loss=None, loss_weights=None, metrics=None, **options):
        """Keras's `compile`. One loss trains both heads; without `loss_weights` the auxiliary head's counts 0.4.

        Metrics score the decode head, unless they are given by output: `{"logits": [...], "auxiliary": [...]}`.
        """
        self._metrics_by_output = isinstance(metrics, dict)
        if "auxiliary" in self.output_names and loss is not None:
            if isinstance(loss, (list, tuple)):
                loss = dict(zip(self.output_names, loss, strict=True))
            elif not isinstance(loss, dict):
                loss = {name: loss for name in self.output_names}
            if loss_weights is None:
                loss_weights = {name: AUXILIARY_WEIGHT if name == "auxiliary" else 1.0 for name in loss}
        super().compile(optimizer, loss=loss, loss_weights=loss_weights, metrics=metrics, **options)

    def compile_from_config(self, config):
        """Compiles a loaded model as it was saved. Keras asks for this method where `compile` is overridden."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if isinstance(y_pred, dict) and not isinstance(y, dict):
            y = {name: y for name in y_pred}  # both heads are trained on the same label map
            if sample_weight is not None:
                sample_weight = {name: sample_weight for name in y_pred}
        return super().compute_loss(x, y, y_pred, sample_weight, training=training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        if isinstance(y_pred, dict) and not isinstance(y, dict):
            y_pred = y_pred if self._metrics_by_output else {"logits": y_pred["logits"]}
            y = {name: y for name in y_pred}
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def get_config(self):
        return {
            **self._config,
            **({} if self.threshold is None else {"threshold": float(self.threshold)}),
            "row": self.row,
            "classes": self.classes,
            "palette": self.palette,
            "protocol": self.protocol.to_dict(),
            "frozen": [layer.name for layer in self.layers if layer.weights and not layer.trainable],
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = current_arguments(config)
        if isinstance(config.get("dtype"), dict):
            config["dtype"] = keras.dtype_policies.deserialize(config["dtype"])
        return cls(**config)


ARGUMENTS = (DeepLab.__doc__ or "").partition("\n\n")[2]  # Python drops docstrings with -OO


class DeepLabV3(DeepLab):
    __doc__ = f"""DeepLabV3: an atrous backbone, atrous spatial pyramid pooling and a classifier.\n\n{ARGUMENTS}"""

    has_decoder = False


class DeepLabV3Plus(DeepLab):
    __doc__ = f"""DeepLabV3+: DeepLabV3 with separable convolutions and a decoder that adds the detail of the first stage.

{ARGUMENTS}"""

    has_decoder = True


def backbone_widths(backbone, **given):
    """The widths of a backbone: those given, and the defaults in place of None.

    Raises:
        ValueError: for a width that is no positive integer, or that the backbone does not have.
    """
    defaults = BACKBONES[backbone].widths
    for name in given.keys() - defaults.keys():
        require(given[name] is None, f"{name} must be left out for {backbone}, which has no such width", given[name])
    return {
        name: positive_int(name, default if given[name] is None else given[name]) for name, default in defaults.items()
    }


def default_palette(num_classes):
    """A colour for each class, as PASCAL VOC computes them: the bits of its number, distributed over R, G and B."""
    return tuple(
        tuple(sum((i >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8)) for channel in range(3))
        for i in range(num_classes)
    )


def positive_int(name, value):
    """`value`, of any integer type (also NumPy's), as an int. Raises `ValueError` unless it is a positive integer."""
    try:
        number = 0 if isinstance(value, bool) else index(value)
    except TypeError:
        number = 0
    require(number > 0, f"{name} must be a positive integer", value)
    return number


def require(condition, rule, received):
    """Raises `ValueError` with the rule and the value received unless the condition holds."""
    if not condition:
        raise ValueError(f"{rule}. Received: {received!r}.")
