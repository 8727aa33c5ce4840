# Takes orders from the stock downstream, in Python without a package:  python3 deploy/examples/handler.py
# Idempotency-Key and effect are one transaction: kill it where you like, what comes again finds its key.
import json, os, sqlite3
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Orders(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept

    def do_POST(self):
        key, body = self.headers["Idempotency-Key"], self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            order_id = str(json.loads(body)["order_id"])
        except (ValueError, TypeError, KeyError):
            return self.answer(400)
        with closing(sqlite3.connect(DATABASE)) as db, db:  # what fails in here is no answer: downstream tries again
            fresh = db.execute("INSERT INTO orders VALUES (?, ?) ON CONFLICT DO NOTHING", [key, order_id]).rowcount
        self.answer(200, "done" if fresh else "duplicate")

    def answer(self, status, outcome="rejected"):
        self.send_response(status)
        self.send_header("Countersign-Outcome", outcome)
        self.send_header("Content-Length", "0")
        self.end_headers()

DATABASE = os.environ.get("ORDERS_DB", "orders.db")
with closing(sqlite3.connect(DATABASE)) as db:
    db.execute("CREATE TABLE IF NOT EXISTS orders (idempotency_key TEXT NOT NULL PRIMARY KEY, order_id TEXT)")
ADDRESS = (os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 9000)))
ThreadingHTTPServer(ADDRESS, Orders).serve_forever()
