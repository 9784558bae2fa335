"""A released variable's name in, its drawn weights out; a narrow network of the authors with such weights.

tests/golden/make_authors.py runs the authors' own code with the same weights.
"""

import zlib

import numpy as np

# Of the narrow networks. Xception's widths are an eighth, but for the stem's; MobileNetV2's a quarter.
XCEPTION, MOBILENET = {"base_channels": 8}, {"base_channels": 8}
CLASSES = 7
# {name: (class, backbone, other arguments)}
NETWORKS = {
    "xception65": ("DeepLabV3Plus", "xception65", XCEPTION),
    "xception41": ("DeepLabV3", "xception41", XCEPTION),
    "xception71_dpc": ("DeepLabV3Plus", "xception71", {**XCEPTION, "dense_prediction_cell": True}),
    "mobilenetv2": ("DeepLabV3", "mobilenetv2_tf", MOBILENET),
    "mobilenetv2_decoder": ("DeepLabV3Plus", "mobilenetv2_tf", MOBILENET),
}
# The same at full width, with half the width of MobileNetV2 beside.
FULL = {
    "xception65": ("DeepLabV3Plus", "xception65", {}),
    "xception71_dpc": ("DeepLabV3Plus", "xception71", {"dense_prediction_cell": True}),
    "mobilenetv2_dm05": ("DeepLabV3", "mobilenetv2_tf", {"base_channels": 16}),
    "mobilenetv2_decoder": ("DeepLabV3Plus", "mobilenetv2_tf", {}),
}
FULL_STRIDES = (16,)
SIZES = ((33, 47), (64, 96), (65, 97))  # height, width of pictures: tiny, even, odd
STRIDES = (8, 16, 32)
CROP = (65, 97)  # to which the pictures of the test protocol are padded
PICTURES = ((50, 80), (65, 97), (33, 41))
FACTORS = (0.5, 0.75, 1.25)
TRAINING_CROP = (65, 97)
# {name of a narrow network: (steps, learning rate of the first one, weight decay)} of runs of the authors' training. The decay
# is larger than theirs so that a wrong one shows. A higher rate amplifies rounding: in float32 at 1e-3, ten thousandfold in
# each step of their own code.
TRAINING_RUNS = {"mobilenetv2": (3, 1e-6, 0.01), "mobilenetv2_decoder": (3, 1e-6, 0.01)}
LEAST_CHANGE = 1e-9  # of a variable; below, its gradient is 0 and its change rounding


def weights(name, shape, seed=1):
    """A float32 array of weights that depends only on the variable's released name, its shape and the seed."""
    generator = np.random.Generator(np.random.Philox(key=[zlib.crc32(name.encode()), seed]))
    shape = tuple(shape)
    if len(shape) == 4:
        fan_in = shape[0] * shape[1] * (1 if name.endswith("depthwise_weights") else shape[2])
        values = generator.standard_normal(shape) * np.sqrt(2.0 / fan_in)
        if "logits/semantic" in name:  # a mean of 0 over the channels, so that no class wins everywhere
            values = 4.0 * (values - values.mean(axis=2, keepdims=True))
    elif name.endswith("moving_variance"):
        values = 0.5 + generator.random(shape)
    elif name.endswith("gamma"):
        values = 0.3 + 0.6 * generator.random(shape)
    else:
        values = 0.2 * generator.standard_normal(shape)
    return values.astype(np.float32)


def released_names(model):
    """{released name: variable} of a model."""
    found = {}
    for layer in model.layers:
        for variable in layer.weights:
            module = layer.name.replace("-", "/")
            kernel = "depthwise_weights" if module.endswith("depthwise") else "weights"
            parameter = {"kernel": kernel, "bias": "biases"}.get(variable.name, variable.name)
            found[f"{module}/{parameter}"] = variable
    return found


def variables(model, seed=1):
    """{released name: drawn array} of all variables of a model."""
    return {name: weights(name, variable.shape, seed) for name, variable in released_names(model).items()}


def build(name, networks=NETWORKS, **options):
    """A network of `networks` with random weights."""
    import keras_deeplab as kd

    cls, backbone, arguments = networks[name]
    return getattr(kd, cls)(**{"num_classes": CLASSES, "backbone": backbone, **arguments, **options})


def drawn(name, networks=NETWORKS, **options):
    """A network of `networks` with the drawn weights."""
    from keras_deeplab.zoo.assign import TENSORFLOW, assign

    model = build(name, networks, **options)
    assign(model, variables(model), names=TENSORFLOW)
    return model


def write_checkpoint(arrays, prefix, step=30000):
    """Writes PREFIX-STEP.index and .data by the operation of TensorFlow's `Saver`, and returns PREFIX-STEP."""
    import tensorflow as tf

    tf.raw_ops.SaveV2(
        prefix=f"{prefix}-{step}",
        tensor_names=list(arrays),
        shape_and_slices=[""] * len(arrays),
        tensors=[tf.constant(array) for array in arrays.values()],
    )
    return f"{prefix}-{step}"


def save_as_training_does(arrays, prefix, step=30000):
    """`write_checkpoint` by the `Saver` itself, from a session: slower."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        found = {name: v1.get_variable(name, initializer=tf.constant(array)) for name, array in arrays.items()}
        v1.global_variables_initializer().run()
        return v1.train.Saver(found).save(session, str(prefix), global_step=step, write_meta_graph=False)


def write_frozen_graph(arrays, path):
    """Writes a graph with the arrays as constants, frozen by TensorFlow's own `graph_util`, beside other constants."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session() as session:
        image = v1.placeholder(tf.uint8, [1, None, None, 3], "ImageTensor")
        total = tf.reduce_sum(tf.cast(image, tf.float32)) * tf.constant(2.0, name="mul/y")
        for name, array in arrays.items():
            variable = v1.get_variable(name, initializer=tf.constant(array), use_resource=False)
            total += tf.reduce_sum(variable)
        tf.identity(total, "SemanticPredictions")
        v1.global_variables_initializer().run()
        frozen = v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), ["SemanticPredictions"])
    path.write_bytes(frozen.SerializeToString())
    return path


def write_archive(path, files):
    """Writes a .tar.gz of {member name: bytes}, as the released ones are laid out."""
    import io
    import tarfile

    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def files_of(prefix):
    """{end of the name: bytes} of a checkpoint's files."""
    from pathlib import Path

    prefix = Path(prefix)
    return {path.name.removeprefix(prefix.name): path.read_bytes() for path in prefix.parent.glob(f"{prefix.name}.*")}
