"A server of a test's own on this machine: what a client sends is answered by a handler"
import json, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Server(ThreadingHTTPServer):
    def __init__(self, handler, **state):
        super().__init__(('127.0.0.1', 0), handler)
        self.__dict__.update(state)
        threading.Thread(target=self.serve_forever, daemon=True).start()
    @property
    def url(self): return f'http://127.0.0.1:{self.server_port}'

class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *_): pass
    def body(self):
        if self.headers.get('Transfer-Encoding') == 'chunked':
            out = b''
            while n := int(self.rfile.readline(), 16): out += self.rfile.read(n); self.rfile.readline()
            self.rfile.readline()
            return out
        return self.rfile.read(int(self.headers.get('Content-Length') or 0))
    def answer(self, obj, status=200, headers=None):
        data = obj if isinstance(obj, bytes) else json.dumps(obj).encode()
        self.send_response(status)
        for k,v in {'Content-Length': len(data), 'Content-Type': 'application/json', **(headers or {})}.items(): self.send_header(k, str(v))
        self.end_headers()
        if self.command != 'HEAD': self.wfile.write(data)
