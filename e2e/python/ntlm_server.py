"""An HTTP API behind NTLM, as pyspnego judges it: ntlm_server.py SCHEME VALUE.

Says the port that it listens on, then one line a request. The users are those of the file that NTLM_USER_FILE names. As with
IIS, a login holds for its TCP connection.
"""

import base64
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import spnego
from spnego.exceptions import SpnegoError

SCHEME, VALUE = sys.argv[1:3]


def say(text):
    print(text, flush=True)


class Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    login = None

    def do_GET(self):
        # As http.sys does, before it looks at anything else.
        if self.command in ("POST", "PUT") and "Content-Length" not in self.headers:
            say("without a length")
            return self.answer(411, {})
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if self.login is not None and self.login.complete:
            say(f"served {self.login.client_principal}")
            return self.answer(200, {})
        if scheme != SCHEME or SCHEME == "Basic":
            self.login = None
            say("anonymous")
            return self.answer(401, {"WWW-Authenticate": 'Basic realm="r"' if SCHEME == "Basic" else SCHEME})
        if self.login is None:
            self.login = spnego.server(protocol="ntlm", options=spnego.NegotiateOptions.use_ntlm)
        try:
            challenge = self.login.step(base64.b64decode(token))
        except SpnegoError as error:
            self.login = None
            say(f"refused: {error}")
            return self.answer(401, {"WWW-Authenticate": SCHEME})
        if challenge:
            say("challenged")
            return self.answer(401, {"WWW-Authenticate": f"{SCHEME} {base64.b64encode(challenge).decode()}"})
        say(f"logged in {self.login.client_principal}")
        self.answer(200, {})

    do_POST = do_PUT = do_DELETE = do_GET

    def answer(self, code, headers):
        body = json.dumps({"data": {"value": VALUE}} if code == 200 else {}).encode()
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Connection)
say(f"port {server.server_address[1]}")
server.serve_forever()
