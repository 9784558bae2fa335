"""DeepLabV3 and DeepLabV3+: a picture in, a score per pixel and class out (Chen et al. 2017, 2018)."""

import keras

from keras_deeplab.networks.aspp import aspp
from keras_deeplab.networks.decoder import auxiliary, classifier, decoder
from keras_deeplab.networks.layers import Normalize, ResizeLike, at_least_float32, default_dtype, serializable
from keras_deeplab.networks.resnet import BLOCKS, STAGES, atrous_resnet
from keras_deeplab.zoo.presets import describe, load_preset
from keras_deeplab.zoo.protocol import Protocol


class DeepLab(keras.Model):
    """What both networks share; use `DeepLabV3` or `DeepLabV3Plus`."""

    def __init__(
        self,
        num_classes,
        *,
        depth=50,
        stem="v1c",
        output_stride=8,
        multi_grid=None,
        aspp_rates=None,
        base_channels=64,
        stem_channels=64,
        aspp_channels=None,
        low_level_channels=None,
        auxiliary_channels=None,
        auxiliary_head=False,
        align_corners=False,
        dropout=0.1,
        folded=False,
        row=None,
        classes=None,
        palette=None,
        protocol=None,
        dtype=None,
        name=None,
    ):
        _require(depth in BLOCKS, "depth is 18, 50 or 101", depth)
        _require(stem in ("v1c", "b"), 'stem is "v1c" (three 3x3 convolutions) or "b" (one 7x7)', stem)
        _require(output_stride in STAGES, "output_stride is 8, 16 or 32", output_stride)
        _require(isinstance(num_classes, int) and num_classes > 0, "num_classes is a positive integer", num_classes)
        _require(0 <= dropout < 1, "dropout is a share of the channels, at least 0 and below 1", dropout)
        _require(
            multi_grid is None or len(multi_grid) == BLOCKS[depth][3],
            "multi_grid has one rate per block of the last stage",
            multi_grid,
        )
        _require(classes is None or len(classes) == num_classes, f"classes has {num_classes} names", classes)
        _require(palette is None or len(palette) == num_classes, f"palette has {num_classes} colours", palette)
        narrow = depth == 18  # the released R-18 models have heads a quarter as wide
        aspp_rates = tuple(aspp_rates or (1, *(rate * 8 // output_stride for rate in (12, 24, 36))))
        aspp_channels = aspp_channels or (128 if narrow else 512)
        auxiliary_channels = auxiliary_channels or (64 if narrow else 256)
        if self._has_decoder:
            low_level_channels = low_level_channels or (12 if narrow else 48)
        else:
            _require(
                low_level_channels is None,
                "DeepLabV3 has no decoder and takes no low_level_channels",
                low_level_channels,
            )
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        logits_dtype = at_least_float32(policy.compute_dtype)

        with default_dtype(policy):
            images = keras.Input((None, None, 3), name="images", dtype=at_least_float32(policy.variable_dtype))
            x = Normalize(name="normalize")(images)
            features = atrous_resnet(
                x,
                depth=depth,
                stem=stem,
                output_stride=output_stride,
                multi_grid=multi_grid,
                base_channels=base_channels,
                stem_channels=stem_channels,
                folded=folded,
            )
            x = aspp(
                features[3],
                aspp_channels,
                aspp_rates,
                separable=self._has_decoder,
                align_corners=align_corners,
                folded=folded,
            )
            if self._has_decoder:
                x = decoder(
                    x, features[0], aspp_channels, low_level_channels, align_corners=align_corners, folded=folded
                )
            scores = classifier(x, num_classes, dropout, name="decode_head")
            outputs = ResizeLike(align_corners, name="logits", dtype=logits_dtype)([scores, images])
            if auxiliary_head:
                x = auxiliary(features[2], auxiliary_channels, folded=folded)
                x = classifier(x, num_classes, dropout, name="auxiliary_head")
                x = ResizeLike(align_corners, name="auxiliary", dtype=logits_dtype)([x, images])
                outputs = {"logits": outputs, "auxiliary": x}
        super().__init__(inputs=images, outputs=outputs, name=name)

        self.num_classes = num_classes
        self.row = row
        self.classes = tuple(classes) if classes else tuple(f"class {i}" for i in range(num_classes))
        self.palette = tuple(tuple(colour) for colour in palette) if palette else default_palette(num_classes)
        self.protocol = (
            protocol if isinstance(protocol, Protocol) else Protocol.from_dict(protocol or {"mode": "whole"})
        )
        self._config = dict(
            num_classes=num_classes,
            depth=depth,
            stem=stem,
            output_stride=output_stride,
            multi_grid=multi_grid,
            aspp_rates=aspp_rates,
            base_channels=base_channels,
            stem_channels=stem_channels,
            aspp_channels=aspp_channels,
            auxiliary_channels=auxiliary_channels,
            auxiliary_head=auxiliary_head,
            align_corners=align_corners,
            dropout=dropout,
            folded=folded,
            **({"low_level_channels": low_level_channels} if self._has_decoder else {}),
        )
        self._policy = policy

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if isinstance(y_pred, dict) and not isinstance(y, dict):
            y = {name: y for name in y_pred}  # both heads learn the same label map
            if sample_weight is not None:
                sample_weight = {name: sample_weight for name in y_pred}
        return super().compute_loss(x, y, y_pred, sample_weight, training=training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        if isinstance(y_pred, dict) and not isinstance(y, dict):
            y_pred = y_pred["logits"]
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def get_config(self):
        return {
            **self._config,
            "row": self.row,
            "classes": self.classes,
            "palette": self.palette,
            "protocol": self.protocol.to_dict(),
            "dtype": keras.dtype_policies.serialize(self._policy),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        if isinstance(config.get("dtype"), dict):
            config["dtype"] = keras.dtype_policies.deserialize(config["dtype"])
        return cls(**config)

    @classmethod
    def from_preset(
        cls,
        preset,
        *,
        weights=None,
        num_classes=None,
        auxiliary_head=False,
        dropout=0.1,
        output_stride=None,
        dtype=None,
        sha256=None,
        load_weights=True,
    ):
        """A released model by name.

        Args:
            preset: a row's name (`DeepLabV3Plus.presets` lists them) or a short one, BACKBONE_DATASET, for the row with
                the highest published mIoU of that backbone and data set, such as `"r101_cityscapes"`.
            weights: a file to take in place of the released one: a `.pth` of the released or of your own mmsegmentation
                run (widths and class count follow its shapes, class names its metadata), or a `.keras`.
            num_classes: your own class count; all but the classifiers is kept then, and a warning says so.
            auxiliary_head: whether to build the head that supervises stage 3 in training; the model's output is then
                `{"logits", "auxiliary"}`.
            dropout: share of channels that training drops before each classifier.
            output_stride: 8, 16 or 32, if not the row's own; a coarser one is faster and divides the atrous rates.
            dtype: dtype policy, such as `"mixed_bfloat16"`.
            sha256: SHA-256 in hex that the file must have.
            load_weights: False builds the network with random weights and needs no file.

        Returns:
            A model of this class: RGB 0..255 (N, H, W, 3) in, float32 logits (N, H, W, classes) out.

        Raises:
            ValueError: for a name that is no row of this class, a file that is no checkpoint of this network, or a
                wrong SHA-256.
            FileNotFoundError: if the file is neither in the cache (`KERAS_DEEPLAB_CACHE`, by default
                `~/.keras/keras_deeplab`) nor can be downloaded; the message says where to put which file.
        """
        return load_preset(
            cls,
            preset,
            weights=weights,
            num_classes=num_classes,
            auxiliary_head=auxiliary_head,
            dropout=dropout,
            output_stride=output_stride,
            dtype=dtype,
            sha256=sha256,
            load_weights=load_weights,
        )


@serializable
class DeepLabV3(DeepLab):
    """DeepLabV3: an atrous ResNet, atrous spatial pyramid pooling and a classifier."""

    _has_decoder = False
    presets = describe("DeepLabV3")


@serializable
class DeepLabV3Plus(DeepLab):
    """DeepLabV3+: DeepLabV3 with separable convolutions and a decoder that adds the detail of the first stage."""

    _has_decoder = True
    presets = describe("DeepLabV3Plus")


def default_palette(num_classes):
    """A colour for each class: the bits of its number spread over R, G and B, as PASCAL VOC does."""
    return tuple(
        tuple(sum((i >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8)) for channel in range(3))
        for i in range(num_classes)
    )


def _require(holds, rule, received):
    if not holds:
        raise ValueError(f"{rule}. Received: {received!r}.")
