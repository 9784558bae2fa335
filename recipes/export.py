"""A SavedModel of a released model, for TensorFlow Serving:

python -m recipes.export deeplabv3plus_r101_cityscapes --to models/deeplab/1
"""

from recipes import command


def main(argv):
    arguments = command.parser(__doc__.splitlines()[0])
    arguments.add_argument("--to", metavar="DIR", required=True, help="folder to write")
    arguments.add_argument("--weights", metavar="F", help="a .pth or .keras in place of the released file")
    options = arguments.parse_args(argv)

    import keras_deeplab as kd
    from convert.check import same_labels

    model = command.load(options.row, options.weights)
    kd.export_saved_model(model, options.to)
    command.print_table([("check of the SavedModel", "result"), *same_labels(model, options.to)])


if __name__ == "__main__":
    command.run(main)
