"""A server on the host for guests, as a module or a program: known bytes over HTTP, and the checksum of what is sent to it.

    server.py ADDRESS PORT

GET /N gives N bytes of data(N); POST to anywhere answers with the MD5 sum of what came.
"""
import ctypes
import functools
import hashlib
import http.server
import random
import signal
import sys
import threading


@functools.lru_cache(maxsize=4)
def data(size):
    return random.Random(size).randbytes(size)


class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(data(int(self.path[1:])))

    def do_POST(self):
        left = int(self.headers["Content-Length"])
        checksum = hashlib.md5()
        while left:
            piece = self.rfile.read(min(left, 1 << 20))
            if not piece:
                break
            checksum.update(piece)
            left -= len(piece)
        self.answer(checksum.hexdigest().encode() + b"\n")

    def log_message(self, *_):
        pass


def start(address="127.0.0.1", port=0):
    """Serves in a thread of its own; returns the server, whose server_port says where."""
    server = http.server.ThreadingHTTPServer((address, port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # goes with the program that started it
    http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
