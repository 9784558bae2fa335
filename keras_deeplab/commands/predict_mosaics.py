"""The part of `keras-deeplab predict` that is for rasters of any size: --mosaic."""

from keras_deeplab.commands import command_line
from keras_deeplab.commands.predict_results import LISTED, end, frequent_classes, print_made, printable


def add_mosaic(arguments):
    """Adds --mosaic and the options that go with it."""
    group = arguments.add_argument_group("rasters of any size")
    group.add_argument(
        "--mosaic",
        action="store_true",
        help="read GeoTIFFs, and whatever GDAL reads, window by window at their own size, and write STEM.tif with the same "
        'georeference; with --scores also STEM_scores.tif (pip install "keras_deeplab[rasterio]")',
    )
    group.add_argument(
        "--bands",
        metavar="N",
        nargs="+",
        type=command_line.positive_integer,
        help="three bands (red, green, blue), or one (grey); 1 2 3, or the only one, if not given",
    )
    group.add_argument(
        "--stretch",
        metavar=("LOW", "HIGH"),
        nargs=2,
        type=float,
        help="the values that become 0 and 255, linearly, for bands that are not 8-bit",
    )
    group.add_argument(
        "--window",
        metavar=("SIDE", "STRIDE"),
        nargs=2,
        type=command_line.positive_integer,
        help="side of the windows and from one window to the next, in pixels; the row's own if not given",
    )


def predict_mosaics(options):
    """Writes label maps of rasters that may be larger than the memory."""
    from keras_deeplab.pictures.rasters import check_bands, check_stretch, load_rasterio

    load_rasterio()  # what is missing or wrong shows before the model is loaded
    check_bands(options.bands)
    check_stretch(options.stretch)

    from keras_deeplab.catalog.protocol import Protocol
    from keras_deeplab.inference.results import MOSAIC_KINDS, ResultsFolder
    from keras_deeplab.inference.sources import find_pictures

    side, stride = options.window or (None, None)
    protocol = options.window and Protocol("slide", crop=(side, side), stride=(stride, stride))
    sources = find_pictures(options.inputs, options.to)
    ResultsFolder(options.to, list(MOSAIC_KINDS), MOSAIC_KINDS).require_distinct(sources)

    from keras_deeplab.inference import rasters
    from keras_deeplab.inference.folders import cause_of

    model = command_line.load(options.row, options.weights, ema=options.ema)
    chosen = rasters.Options.checked(model, protocol, options.bands, options.stretch, options.scores)
    crop, stride = chosen.protocol.crop, chosen.protocol.stride
    print(f"windows of {crop[1]}x{crop[0]} pixels, one every {stride[1]}x{stride[0]}, at the rasters' own size")
    rows, failed = [("raster", "size", "most frequent classes")], []
    how = {"overwrite": options.overwrite, "stop_at_first": options.stop_at_first, "progress": True}
    try:
        with rasters.written(model, sources, options.to, chosen, **how) as run:
            skipped = run.results.skipped
            for source, mosaic, error in run.finished:
                if error is not None:
                    failed.append((source.place, cause_of(error)))
                    continue
                name, (height, width) = printable(source.place.rpartition("/")[2]), mosaic.shape
                rows.append((name, f"{width}x{height}", frequent_classes(mosaic.counts, model.classes)))
    finally:
        print_made(rows[: LISTED + 1], len(rows) - 1)
    end(skipped, failed, len(sources), options, "rasters")
