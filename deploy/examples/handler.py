# Takes orders from the stock downstream, in Python without a package:  python3 deploy/examples/handler.py
# Idempotency-Key and effect are one transaction: kill it where you like, what comes again finds its key.
import json, os, sqlite3
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Orders(BaseHTTPRequestHandler):
    error_message_format = "%(explain)s"  # what downstream writes down

    def do_POST(self):
        key, body = self.headers["Idempotency-Key"], self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            order_id = str(json.loads(body)["order_id"])
        except (ValueError, TypeError, KeyError) as error:
            return self.send_error(400, explain=f"no order with an order_id: {error!r}")
        with closing(database()) as db, db:  # what fails in here is no answer: downstream tries again
            fresh = db.execute("INSERT INTO orders VALUES (?, ?) ON CONFLICT DO NOTHING", [key, order_id]).rowcount
        self.send_response(200)
        if not fresh:
            self.send_header("Countersign-Outcome", "duplicate")
        self.end_headers()

def database():
    db = sqlite3.connect(os.environ.get("ORDERS_DB", "orders.db"), timeout=10)
    db.execute("CREATE TABLE IF NOT EXISTS orders (idempotency_key TEXT NOT NULL PRIMARY KEY, order_id TEXT NOT NULL)")
    return db

server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", 9000))), Orders)
print(f"listening on 127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
