"""Exports a model for TensorFlow Serving, LiteRT or ONNX Runtime, and compares the result with the Keras model.

    keras-deeplab export deeplabv3plus_r101_cityscapes --to models --name deeplab

writes models/deeplab/1, or the next version, and the configuration files that TensorFlow Serving starts with. Without --name
it writes a SavedModel into the folder --to itself. docs/serving.md shows how to send requests.
"""

from contextlib import nullcontext
from pathlib import Path

from keras_deeplab.commands import command_line

CHECKED = "Comparing its label maps with those of segment"


def main(argv):
    arguments = command_line.parser("export", __doc__.splitlines()[0])
    arguments.add_argument("--to", metavar="DIR", required=True, help="folder to write")
    arguments.add_argument(
        "--name",
        help="make DIR a folder of models and write the next version of the model NAME",
    )
    command_line.add_weights(arguments)
    arguments.add_argument(
        "--precision", choices=("float32", "bfloat16"), help="number type that the network computes in"
    )
    arguments.add_argument(
        "--size",
        metavar=("H", "W"),
        type=command_line.positive_integer,
        nargs=2,
        help="accept pictures of this size only; in pixels",
    )
    arguments.add_argument(
        "--max-pixels",
        metavar="N",
        type=command_line.positive_integer,
        help="refuse larger pictures (default 67108864)",
    )
    arguments.add_argument(
        "--this-processor",
        action="store_true",
        help="use what is fast on this machine's processor and may be slow on others",
    )
    arguments.add_argument(
        "--palette", action="store_true", help="return label maps in RGB colours in place of class ids"
    )
    command_line.add_multi_scale_flip(arguments)
    formats = arguments.add_mutually_exclusive_group()
    formats.add_argument("--litert", action="store_true", help="write a float16 LiteRT file in place of a SavedModel")
    formats.add_argument("--onnx", action="store_true", help="write an ONNX file")
    formats.add_argument(
        "--openvino",
        action="store_true",
        help="write an OpenVINO model, for pictures of any size unless --size is given",
    )
    arguments.add_argument(
        "--int8",
        metavar="DIR",
        help="compute in int8, calibrated on pictures of DIR: a LiteRT file, or with --openvino an OpenVINO model",
    )
    arguments.add_argument(
        "--calibration",
        metavar="DIR",
        help="folder of pictures on which to compare with float32; synthetic pictures if not given",
    )
    arguments.add_argument(
        "--labels", metavar="DIR", help="true label maps of the pictures of --calibration or --int8, to score with"
    )
    command_line.add_label_rule(arguments)
    options = arguments.parse_args(argv)
    options.size = tuple(options.size) if options.size else None
    form = form_of(options)
    refuse_contradictions(options, form)

    model = command_line.load(options.row, options.weights, ema=options.ema)
    print(f"Writing the {form} model", flush=True)
    path, rows = (write_saved_model if form == "SavedModel" else write_converted)(model, form, options)
    command_line.print_table([("check", "result"), *rows, ("written", path)])


def form_of(options):
    """What is written: "SavedModel", "LiteRT", "ONNX" or "OpenVINO"."""
    if options.openvino:
        return "OpenVINO"
    if options.onnx:
        return "ONNX"
    return "LiteRT" if options.litert or options.int8 else "SavedModel"


def refuse_contradictions(options, form):
    """Raises an error, before the model is loaded, if two options contradict or something that they name is missing.

    `form` is what `form_of` returns.
    """
    forms_of = {
        "--name": (options.name, ("SavedModel", "OpenVINO")),
        "--precision": (options.precision, ("SavedModel",)),
        "--max-pixels": (options.max_pixels, ("SavedModel",)),
        "--palette": (options.palette, ("SavedModel",)),
        "--multi-scale-flip": (options.multi_scale_flip, ("SavedModel", "OpenVINO")),
        "--this-processor": (options.this_processor, ("SavedModel",)),
        "--int8": (options.int8, ("LiteRT", "OpenVINO")),
    }
    for option, (value, forms) in forms_of.items():
        if value and form not in forms:
            raise ValueError(
                f"{option} is for {' and '.join(forms)} only. Received: {option} for {form}. Leave it out."
            )
    if options.palette and options.calibration:
        raise ValueError(
            "--calibration compares class ids. Received: --palette too, which exports colours. Leave one of them out."
        )
    if options.int8 and options.calibration:
        raise ValueError("--int8 names the folder of pictures already. Received: --calibration too. Leave it out.")
    folder = options.int8 or options.calibration
    if options.labels and not folder:
        raise ValueError("--labels are those of the pictures of --calibration or --int8. Received: neither. Add one.")
    if form == "OpenVINO" and options.multi_scale_flip and not (options.size or options.int8):
        raise ValueError("--multi-scale-flip in an OpenVINO model needs --size. Received: no --size. Add --size H W.")
    if form == "OpenVINO":
        from keras_deeplab.serving.openvino_ir import imported

        imported("openvino")
        if options.int8:
            imported("nncf")
    if options.labels:
        from keras_deeplab.data.pairs import find_pairs

        find_pairs(folder, options.labels)


def write_saved_model(model, form, options):
    """Writes the SavedModel and compares its labels with those of `segment`, and of a variant with those of float32.

    Returns:
        Its path, and rows of (check, result).
    """
    from keras_deeplab.serving import repository, verify
    from keras_deeplab.serving.export import at_precision, saved_model_in_place_of

    _, pictures, truth = chosen_pictures(model, options, options.size) if options.calibration else (None, None, None)
    of_segment = ("size", "max_pixels", "multi_scale_flip", "this_processor")
    variant = {key: getattr(options, key) for key in ("palette", "precision", *of_segment)}
    with place_of(options) as path:
        with saved_model_in_place_of(model, path, **variant) as (new, _):
            print(CHECKED, flush=True)
            served, reference = at_precision(model, options.precision), at_precision(model, "float32")
            if options.palette or (served is reference and not options.size and truth is None):
                reference = None
            of_export = {key: variant[key] for key in of_segment}
            rows = verify.require_same_labels(
                served, new, **of_export, pictures=pictures, reference=reference, truth=truth
            )
        if options.name:
            rows += [("configuration", file) for file in repository.write_configs(options.to)]
    return path, rows


def place_of(options):
    """A context that gives the path of a SavedModel or OpenVINO model: the next version under --name, or --to itself."""
    from keras_deeplab.serving import repository

    return repository.new_version(options.to, options.name) if options.name else nullcontext(Path(options.to))


def write_converted(model, form, options):
    """Writes a LiteRT or ONNX file or an OpenVINO model, and compares its labels with those of the float32 model.

    Returns:
        Its path, and rows of (check, result).
    """
    from keras_deeplab.serving import litert_onnx, openvino_ir, verify
    from keras_deeplab.serving.export import at_precision

    size = options.size
    if form != "OpenVINO" or options.int8:
        size = size or litert_onnx.default_size(model.protocol)
    calibration, pictures, truth = chosen_pictures(model, options, size)
    flip = options.multi_scale_flip
    if form == "OpenVINO":
        with place_of(options) as path:
            openvino_ir.export_openvino(model, path, size=size, multi_scale_flip=flip, calibration=calibration)
        file = Path(path, openvino_ir.FILE)
    elif form == "ONNX":
        path = file = Path(options.to, "model.onnx")
        litert_onnx.export_onnx(model, path, size=size)
    else:
        path = file = Path(options.to, "model_int8.tflite" if options.int8 else "model_float16.tflite")
        litert_onnx.export_litert(model, path, size=size, calibration=calibration)
    print(CHECKED, flush=True)
    labels = verify.labels_of(file, pictures)
    reference = at_precision(model, "float32")
    return path, verify.agreement(reference, pictures, labels, multi_scale_flip=flip, truth=truth)


def chosen_pictures(model, options, size):
    """The pictures that the options name, resized to `size` unless it is None.

    Returns:
        A list of pictures to calibrate int8 with, or None; {name: picture} to compare on; {name: true labels}, or None.
    """
    from keras_deeplab.data.pairs import find_pairs
    from keras_deeplab.serving import verify

    folder = options.int8 or options.calibration
    if not folder:
        return None, verify.synthetic_pictures(size), None
    calibration, compared = verify.choose_files(folder, for_int8=bool(options.int8))
    truth = None
    if options.labels:
        rule = command_line.label_rule(options)
        truth = verify.read_truth(model, find_pairs(folder, options.labels), compared, size, **rule)
    calibration = list(verify.read_pictures(calibration, size).values()) if options.int8 else None
    return calibration, verify.read_pictures(compared, size), truth


if __name__ == "__main__":
    command_line.run(main)
