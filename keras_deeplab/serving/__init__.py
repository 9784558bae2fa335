"""A model in; a SavedModel, LiteRT or ONNX file out, whose label maps are compared with those of `segment`."""
