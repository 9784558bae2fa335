"""The strides of a network's layers and an output stride in, the stride and the atrous rate of each layer out."""


class Pace:
    """Turns strides into atrous rates once the output stride is reached, as the authors' networks do.

    The layer that would have had the stride keeps the rate before it. The layers after it have a rate that is larger by its
    stride.

    Args:
        output_stride: of the whole network.
        at: the stride that the layers so far have together.
    """

    def __init__(self, output_stride, at=1):
        self.output_stride, self.stride, self.rate = output_stride, at, 1

    def next(self, stride):
        """Stride and rate, as a dict of options, of the next layer, which has `stride` in the network without rates."""
        if self.stride < self.output_stride:
            self.stride *= stride
            return dict(strides=stride, rate=1)
        rate = self.rate
        self.rate *= stride
        return dict(strides=1, rate=rate)
