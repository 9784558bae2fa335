"""A released model for TensorFlow Serving, LiteRT or ONNX Runtime:

    keras-deeplab export deeplabv3plus_r101_cityscapes --to models --name deeplab

writes models/deeplab/1, or the next version, and the files that TensorFlow Serving starts with; without --name a SavedModel
into the folder --to itself. docs/serving.md shows how to ask it.
"""

from pathlib import Path

from keras_deeplab.commands import command_line


def main(argv):
    arguments = command_line.parser("export", __doc__.splitlines()[0])
    arguments.add_argument("--to", metavar="DIR", required=True, help="folder to write")
    arguments.add_argument(
        "--name", help="make DIR a folder of models: the next version of this one, and configurations"
    )
    command_line.add_weights(arguments)
    arguments.add_argument("--precision", choices=("float32", "bfloat16"), help="what the network computes in")
    arguments.add_argument(
        "--size", metavar=("H", "W"), type=command_line.positive, nargs=2, help="pixels, for pictures of one size only"
    )
    arguments.add_argument(
        "--max-pixels", metavar="N", type=command_line.positive, help="refuse larger pictures (default 67108864)"
    )
    arguments.add_argument("--palette", action="store_true", help="label maps in RGB colours in place of class ids")
    kinds = arguments.add_mutually_exclusive_group()
    kinds.add_argument("--litert", action="store_true", help="a float16 LiteRT file in place of a SavedModel")
    kinds.add_argument("--int8", metavar="DIR", help="an int8 LiteRT file, calibrated on the pictures in DIR")
    kinds.add_argument("--onnx", action="store_true", help="an ONNX file")
    arguments.add_argument(
        "--calibration", metavar="DIR", help="pictures to compare with float32 on, if not drawn ones"
    )
    options = arguments.parse_args(argv)
    file = {"litert": "model_float16.tflite", "int8": "model_int8.tflite", "onnx": "model.onnx"}
    file = next((name for kind, name in file.items() if getattr(options, kind)), None)
    options.size = tuple(options.size) if options.size else None
    refuse_contradictions(options, file)

    import keras

    steps = keras.utils.Progbar(3, unit_name="step")
    model = command_line.load(options.row, options.weights)
    steps.update(1)
    if file is None:
        path, rows = saved_model(model, options, steps)
    else:
        path, rows = converted(model, Path(options.to, file), options, steps)
    steps.update(3)
    command_line.print_table([("check", "result"), *rows, ("written", path)])


def refuse_contradictions(options, file):
    given = {"--name": options.name, "--precision": options.precision, "--max-pixels": options.max_pixels}
    given["--palette"] = options.palette
    for option, value in given.items():
        if file and value:
            raise ValueError(f"{option} is for a SavedModel; {file} has no use for it. Leave one of the two out.")
    if options.palette and options.calibration:
        raise ValueError("Colours cannot be scored: export class ids to compare on --calibration, or leave it out.")
    if options.int8 and options.calibration:
        raise ValueError("--int8 names the folder of pictures already. Leave --calibration out.")


def saved_model(model, options, steps):
    """Writes the SavedModel and compares it with `segment`, and a variant with float32."""
    from keras_deeplab.serving import repository, verify
    from keras_deeplab.serving.export import at_precision, export_saved_model

    path = repository.next_version(options.to, options.name) if options.name else Path(options.to)
    pictures = verify.calibration_pictures(options.calibration, options.size) if options.calibration else None
    given = {key: getattr(options, key) for key in ("palette", "precision", "size", "max_pixels")}
    export_saved_model(model, path, **given)
    steps.update(2)
    served, reference = at_precision(model, options.precision), at_precision(model, "float32")
    if options.palette or (served is reference and not options.size):
        reference = None
    limits = dict(size=options.size, max_pixels=options.max_pixels)
    rows = verify.same_labels(served, path, **limits, pictures=pictures, reference=reference)
    if options.name:
        rows += [("configuration", file) for file in repository.write_configs(options.to)]
    return path, rows


def converted(model, path, options, steps):
    """Writes a LiteRT or ONNX file and compares it with the float32 model."""
    from keras_deeplab.serving import litert_onnx, verify
    from keras_deeplab.serving.export import at_precision

    size = options.size or litert_onnx.default_size(model.protocol)
    folder = options.int8 or options.calibration
    pictures = verify.calibration_pictures(folder, size) if folder else verify.drawn_pictures(size)
    if options.onnx:
        litert_onnx.export_onnx(model, path, size=size)
    else:
        calibration = list(pictures.values()) if options.int8 else None
        litert_onnx.export_litert(model, path, size=size, calibration=calibration)
    steps.update(2)
    return path, verify.agreement(at_precision(model, "float32"), pictures, verify.labels_of(path, pictures))


if __name__ == "__main__":
    command_line.run(main)
