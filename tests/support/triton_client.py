"""Asks Triton for label maps, in an environment with tritonclient: HTTP port, gRPC port, folder of files, folder to write to.

Each file is sent over HTTP and gRPC; the answers become http_NAME.png and grpc_NAME.png. Files that are refused, and how many
of forty requests at once were answered as the single ones, are printed as JSON.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException


def ask(kind, port, data):
    """The bytes of the label map of a file; a client of its own, since those of gevent belong to a thread."""
    package = getattr(tritonclient, kind)
    client = package.InferenceServerClient(f"localhost:{port}")
    request = package.InferInput("image_bytes", [1], "BYTES")
    request.set_data_from_numpy(np.array([data], dtype=object))
    return client.infer("deeplab", [request]).as_numpy("label_png")[0]


def main(http, grpc, files, to):
    ports, answers, refused = {"http": http, "grpc": grpc}, {}, {}
    for path in sorted(Path(files).iterdir()):
        for kind, port in ports.items():
            try:
                answers[kind, path] = ask(kind, port, path.read_bytes())
                Path(to, f"{kind}_{path.name}.png").write_bytes(answers[kind, path])
            except InferenceServerException as error:
                refused[f"{kind} {path.name}"] = error.message()
    at_once = [list(answers)[i % len(answers)] for i in range(40)]
    with ThreadPoolExecutor(40) as threads:
        found = list(threads.map(lambda key: ask(key[0], ports[key[0]], key[1].read_bytes()), at_once))
    equal = sum(data == answers[key] for data, key in zip(found, at_once, strict=True))
    print(json.dumps({"refused": refused, "equal of forty": equal}))


if __name__ == "__main__":
    main(*sys.argv[1:])
