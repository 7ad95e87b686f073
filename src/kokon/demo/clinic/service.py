"""A small clinic: patient records over HTTP. It runs inside the container image that the demo seals.

GET /patients/ID answers a record; it wants the token from the environment. Each visit is kept in the volume's journal.
"""

import hashlib
import http.server
import json
import os
import pathlib
import sqlite3
import sys

PROGRAM_MARK = "@PROGRAM@"
LOG_MARK = "@LOG_FIRST@" + "@LOG_SECOND@"
RECORDS = os.environ.get("CLINIC_RECORDS", "/srv/clinic.db")
JOURNAL = os.environ.get("CLINIC_JOURNAL", "/data/journal.db")
PASSWORD = pathlib.Path(os.environ.get("CLINIC_PASSWORD_FILE", "/run/secrets/db-password"))


def record(number):
    with sqlite3.connect(f"file:{RECORDS}?mode=ro", uri=True) as records:
        return records.execute("select name, born, finding from patients where id = ?", (number,)).fetchone()


def visited(number):
    with sqlite3.connect(JOURNAL) as journal:
        journal.execute("create table if not exists visits (patient integer, at text default current_timestamp)")
        journal.execute("insert into visits (patient) values (?)", (number,))
        return journal.execute("select count(*) from visits where patient = ?", (number,)).fetchone()[0]


class Clinic(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.headers.get("Authorization") != "Bearer " + os.environ["CLINIC_TOKEN"]:
            return self.answer(401, {"error": "the token is missing or wrong"})
        parts = self.path.split("?")[0].strip("/").split("/")
        if len(parts) != 2 or parts[0] != "patients" or not parts[1].isdigit():
            return self.answer(404, {"error": "try /patients/ID"})
        row = record(int(parts[1]))
        if row is None:
            return self.answer(404, {"error": "no such patient"})
        pepper = PASSWORD.read_bytes().strip()
        pseudonym = hashlib.sha256(pepper + parts[1].encode()).hexdigest()[:16]
        name, born, finding = row
        print(LOG_MARK, "record read, pseudonym", pseudonym, flush=True)
        return self.answer(
            200,
            {"name": name, "born": born, "finding": finding[::-1], "pseudonym": pseudonym, "visits": visited(parts[1])},
        )

    def answer(self, status, body):
        data = json.dumps(body).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def main():
    PASSWORD.read_bytes()
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Clinic)
    print("clinic is open", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
