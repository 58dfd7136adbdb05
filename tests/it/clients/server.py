"""Servers of the tests' own: files and git over HTTP and HTTPS, and a proxy that asks for a password.

    server.py ADDRESS FILES CERTIFICATE KEY

Prints the ports of the three, one a line, and serves until its standard input ends. The files below FILES are served as they
are, and those below /git/ are repositories, for clients of git's own protocol. The proxy takes the user "user" with the
password "secret".
"""

import base64
import http.server
import os
import select
import socket
import ssl
import subprocess
import sys
import threading
import urllib.parse

ADDRESS, FILES, CERTIFICATE, KEY = sys.argv[1:]
ASKED = "Basic " + base64.b64encode(b"user:secret").decode()


class Files(http.server.SimpleHTTPRequestHandler):
    """Files, and git."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *arguments):
        super().__init__(*arguments, directory=FILES)

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path.startswith("/git/"):
            return self.git()
        return super().do_GET()

    def do_POST(self):
        self.git()

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def git(self):
        """git's own program for this, as a CGI."""
        url = urllib.parse.urlsplit(self.path)
        program = subprocess.run(
            ["git", "http-backend"],
            input=self.body(),
            stdout=subprocess.PIPE,
            env={
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": FILES,
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "safe.directory",
                "GIT_CONFIG_VALUE_0": "*",
                "PATH_INFO": url.path,
                "QUERY_STRING": url.query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            },
            check=True,
        )
        head, _, body = program.stdout.partition(b"\r\n\r\n")
        fields = [line.split(": ", 1) for line in head.decode().split("\r\n")]
        status = [value for name, value in fields if name == "Status"]
        self.send_response(int(status[0].split()[0]) if status else 200)
        for name, value in fields:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Proxy(http.server.BaseHTTPRequestHandler):
    """A proxy for both kinds of request, one a connection."""

    def log_message(self, *_):
        pass

    def forward(self):
        if self.headers.get("Proxy-Authorization") != ASKED:
            self.send_response(407)
            self.send_header("Proxy-Authenticate", "Basic")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.close_connection = True
        url = urllib.parse.urlsplit(self.path if "//" in self.path else "//" + self.path)
        with socket.create_connection((url.hostname, url.port or 80)) as server:
            if self.command == "CONNECT":
                self.wfile.write(b"HTTP/1.1 200 Established\r\n\r\n")
            else:
                fields = [f"{n}: {v}" for n, v in self.headers.items() if not n.startswith(("Proxy-", "Connection"))]
                lines = [f"{self.command} {url.path} HTTP/1.1", *fields, "Connection: close", "", ""]
                server.sendall("\r\n".join(lines).encode())
            ends = {self.connection: server, server: self.connection}
            while True:
                for end in select.select(list(ends), [], [])[0]:
                    data = end.recv(65536)
                    if not data:
                        return
                    ends[end].sendall(data)

    do_GET = do_HEAD = do_CONNECT = forward


def start(handler, context=None):
    server = http.server.ThreadingHTTPServer((ADDRESS, 0), handler)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)


secure = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
secure.load_cert_chain(CERTIFICATE, KEY)
start(Files)
start(Files, secure)
start(Proxy)
sys.stdin.read()
