"""Serves a page on this machine on which a model labels the pictures that are dropped on it.

    keras-deeplab demo deeplabv3plus_r101_cityscapes

prints the page's address for a browser. Pictures stay on this machine: the page loads nothing from elsewhere, and only this
machine can open it. It needs `pip install "keras_deeplab[demo]"`.
"""

import argparse
import errno
import os
import socket
import threading

from keras_deeplab.commands import command_line
from keras_deeplab.commands.demo_page import PAGE

ADDRESS = "127.0.0.1"
MAX_BYTES = 2**26  # of a picture's file
MAX_PIXELS = 2**24  # of a picture, unless the environment variable KERAS_DEEPLAB_MAX_PIXELS says another number


def main(argv):
    arguments = command_line.parser("demo", __doc__.splitlines()[0])
    command_line.add_weights(arguments)
    arguments.add_argument("--port", metavar="N", type=port, default=8000, help="of the page; 0 takes any free one")
    options = arguments.parse_args(argv)
    try:
        import uvicorn
    except ImportError as error:
        raise ImportError('demo needs the packages of its extra: pip install "keras_deeplab[demo]".') from error
    from keras_deeplab.pictures import pillow

    os.environ.setdefault(pillow.LIMIT, str(MAX_PIXELS))
    with listening(options.port) as page:  # a port that is taken is refused before the model is loaded
        title = command_line.title(options.row, options.weights)
        app = application(command_line.load(options.row, options.weights, ema=options.ema), title)
        print(f"http://localhost:{page.getsockname()[1]} shows the page. Ctrl-C ends it.", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)).run(sockets=[page])


def port(text):
    """The `type` of --port."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be a number of 0..65535. Received: {text!r}")
    return int(text)


def listening(number):
    """A socket that listens to a port of this machine.

    Raises:
        ValueError: if another program has the port, or it is one of the system's.
    """
    page = socket.socket()
    page.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        page.bind((ADDRESS, number))
        page.listen()
    except OSError as error:
        page.close()
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise ValueError(
            f"The port must be free and open to you. Received: {number}, which is not. Name another: --port 0 takes any."
        ) from error
    return page


def application(model, title):
    """The page of a model under a title, and POST /labels, which takes the bytes of a picture's file.

    Returns:
        `starlette.applications.Starlette`.
    """
    import html

    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import ClientDisconnect
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route

    text = PAGE.replace("{title}", html.escape(title)).replace("{count}", str(model.num_classes))
    one_at_a_time = threading.Lock()

    async def page(_request):
        return HTMLResponse(text)

    async def labels(request):
        try:
            data = await body(request)
            return JSONResponse(await run_in_threadpool(answer, model, data, one_at_a_time))
        except ValueError as error:
            return PlainTextResponse(str(error), 400)
        except ClientDisconnect:
            return Response(status_code=400)

    # Other sites cannot reach the page through a name of their own that leads to this machine.
    local = Middleware(TrustedHostMiddleware, allowed_hosts=["localhost", ADDRESS])
    return Starlette(routes=[Route("/", page), Route("/labels", labels, methods=["POST"])], middleware=[local])


async def body(request):
    """The bytes that a request sends. ValueError if they are more than `MAX_BYTES`."""
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MAX_BYTES:
            raise ValueError(
                f"A picture's file must have at most {MAX_BYTES >> 20} MiB. Received: more. Make it smaller."
            )
    return bytes(data)


def answer(model, data, one_at_a_time):
    """What the page shows of a picture: it, its label map and overlay as data URIs, and the legend.

    Args:
        model: of which the label map is.
        data: bytes of a picture's file.
        one_at_a_time: a lock, so that two pictures do not need the memory of both.

    Returns:
        A dict of strings, and under "legend" [[colour or None, text]], the largest class first.
    """
    from keras_deeplab.evaluation.report import data_uri
    from keras_deeplab.inference.segment import segment
    from keras_deeplab.pictures.draw import overlay, palette_image, shares_by_area
    from keras_deeplab.pictures.read import read_image

    with one_at_a_time:
        picture = read_image(data)
        labels = segment(model, picture)
        entries = shares_by_area(labels, model.classes)
        return {
            "picture": data_uri(picture, "JPEG"),
            "labels": data_uri(palette_image(labels, model.palette), "PNG"),
            "overlay": data_uri(overlay(picture, labels, model.classes, model.palette), "JPEG"),
            "legend": [[None if i is None else f"rgb{tuple(model.palette[i])}", text] for i, text in entries],
        }


if __name__ == "__main__":
    command_line.run(main)
