"""A web application on a thread of this process."""

import http.client
import threading
import time

import uvicorn

from pipeline.web.server import listen, uvicorn_config


class Running:
    """A server of the application; `ask` sends requests to it."""

    def __init__(self, app, host="127.0.0.1"):
        self.host = host
        self.socket = listen(host, 0)
        self.port = self.socket.getsockname()[1]
        self.server = uvicorn.Server(uvicorn_config(app, verbose=False))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)

    def __enter__(self):
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *error):
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()

    def ask(self, method, path, body=None, **headers):
        """Status, headers and content of a response."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, response.headers, content
