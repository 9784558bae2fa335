"""Exports a model for TensorFlow Serving, LiteRT or ONNX Runtime, and compares the result with the Keras model.

    keras-deeplab export deeplabv3plus_r101_cityscapes --to models --name deeplab

writes models/deeplab/1, or the next version, and the configuration files that TensorFlow Serving starts with. Without --name
it writes a SavedModel into the folder --to itself. docs/serving.md shows how to send requests.
"""

from contextlib import nullcontext
from pathlib import Path

from keras_deeplab.commands import command_line


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
        "--palette", action="store_true", help="return label maps in RGB colours in place of class ids"
    )
    formats = arguments.add_mutually_exclusive_group()
    formats.add_argument("--litert", action="store_true", help="write a float16 LiteRT file in place of a SavedModel")
    formats.add_argument("--int8", metavar="DIR", help="write an int8 LiteRT file, calibrated on the pictures in DIR")
    formats.add_argument("--onnx", action="store_true", help="write an ONNX file")
    arguments.add_argument(
        "--calibration",
        metavar="DIR",
        help="folder of pictures on which to compare with float32; synthetic pictures if not given",
    )
    options = arguments.parse_args(argv)
    file_names = {"litert": "model_float16.tflite", "int8": "model_int8.tflite", "onnx": "model.onnx"}
    file = next((name for option, name in file_names.items() if getattr(options, option)), None)
    options.size = tuple(options.size) if options.size else None
    refuse_contradictions(options, file)

    import keras

    bar = keras.utils.Progbar(3, unit_name="step")
    model = command_line.load(options.row, options.weights, ema=options.ema)
    bar.update(1)
    if file is None:
        path, rows = write_saved_model(model, options, bar)
    else:
        path, rows = write_converted(model, Path(options.to, file), options, bar)
    bar.update(3)
    command_line.print_table([("check", "result"), *rows, ("written", path)])


def refuse_contradictions(options, file):
    """Raises `ValueError` if two options contradict. `file` is the name of the LiteRT or ONNX file, or None."""
    saved_model_only = {
        "--name": options.name,
        "--precision": options.precision,
        "--max-pixels": options.max_pixels,
        "--palette": options.palette,
    }
    for option, value in saved_model_only.items():
        if file and value:
            raise ValueError(f"{option} is for a SavedModel only. Received: {option} for {file}. Leave {option} out.")
    if options.palette and options.calibration:
        raise ValueError(
            "--calibration compares class ids. Received: --palette too, which exports colours. Leave one of them out."
        )
    if options.int8 and options.calibration:
        raise ValueError("--int8 names the folder of pictures already. Received: --calibration too. Leave it out.")


def write_saved_model(model, options, bar):
    """Writes the SavedModel and compares its labels with those of `segment`, and of a variant with those of float32.

    Returns:
        Its path, and rows of (check, result).
    """
    from keras_deeplab.serving import repository, verify
    from keras_deeplab.serving.export import at_precision, saved_model_in_place_of

    pictures = verify.calibration_pictures(options.calibration, options.size) if options.calibration else None
    variant = {key: getattr(options, key) for key in ("palette", "precision", "size", "max_pixels")}
    place = repository.new_version(options.to, options.name) if options.name else nullcontext(Path(options.to))
    with place as path:
        with saved_model_in_place_of(model, path, **variant) as (new, _):
            bar.update(2)
            served, reference = at_precision(model, options.precision), at_precision(model, "float32")
            if options.palette or (served is reference and not options.size):
                reference = None
            limits = dict(size=options.size, max_pixels=options.max_pixels)
            rows = verify.require_same_labels(served, new, **limits, pictures=pictures, reference=reference)
        if options.name:
            rows += [("configuration", file) for file in repository.write_configs(options.to)]
    return path, rows


def write_converted(model, path, options, bar):
    """Writes a LiteRT or ONNX file and compares its labels with those of the float32 model.

    Returns:
        Its path, and rows of (check, result).
    """
    from keras_deeplab.serving import litert_onnx, verify
    from keras_deeplab.serving.export import at_precision

    size = options.size or litert_onnx.default_size(model.protocol)
    folder = options.int8 or options.calibration
    pictures = verify.calibration_pictures(folder, size) if folder else verify.synthetic_pictures(size)
    if options.onnx:
        litert_onnx.export_onnx(model, path, size=size)
    else:
        calibration = list(pictures.values()) if options.int8 else None
        litert_onnx.export_litert(model, path, size=size, calibration=calibration)
    bar.update(2)
    return path, verify.agreement(at_precision(model, "float32"), pictures, verify.labels_of(path, pictures))


if __name__ == "__main__":
    command_line.run(main)
