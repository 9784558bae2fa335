"""The part of `keras-deeplab predict` that lets Apache Beam label pictures: --engine beam."""

import argparse
import tempfile

from keras_deeplab.commands.predict_results import fail, load


def parsed(arguments, argv):
    """The parsed arguments, and the options of Beam that follow after -- if it is the engine."""
    own = argv[: argv.index("--")] if "--" in argv else argv
    engine = argparse.ArgumentParser(add_help=False)
    engine.add_argument("--engine")
    if engine.parse_known_args(own)[0].engine == "beam":
        return arguments.parse_args(own), argv[len(own) + 1 :]
    return arguments.parse_args(argv), []


def predict_with_beam(options, of_beam):
    """Exports the model and lets Beam's workers run it."""
    refused = {
        "--overlay": options.overlay,
        "--scores": options.scores,
        "--multi-scale-flip": options.multi_scale_flip,
        "--stop-at-first": options.stop_at_first,
        "--mosaic": options.mosaic,
        "--camera": options.camera is not None,
    }
    for name, given in refused.items():
        if given:
            raise ValueError(
                f"--engine beam writes label maps by the model's own protocol. Received: {name}. Leave one out."
            )
    if not (options.only_labels or options.palette):
        raise ValueError("--engine beam writes label maps and no overlays. Name --only-labels or --palette.")

    from keras_deeplab.inference.distributed import pictures_for_beam, pipeline_options, segment_sources

    beam_options = pipeline_options(of_beam)
    sources = pictures_for_beam(beam_options, options.inputs, options.to)

    from keras_deeplab.serving.export import MAX_PIXELS, export_saved_model

    with tempfile.TemporaryDirectory() as folder:
        model = load(options)
        export_saved_model(model, folder, max_pixels=MAX_PIXELS)
        kind = "palette" if options.palette else "grey"
        made, skipped, failed = segment_sources(folder, sources, options.to, kind, options.overwrite, beam_options)
    print(f"{made} of {len(sources)} pictures are done now, {skipped} were done before")
    if failed:
        fail(failed, len(sources), options.to, "pictures")
