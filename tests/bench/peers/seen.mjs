// What a consumer has handled, where the benchmark reads it: see seen.py for the file.

import { existsSync, openSync, writeSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";

const HEAD = 8;
const WRITE_EACH_MS = 20;
const GO_WITHIN_MS = 120_000;

export class Seen {
  constructor(messages) {
    this.bytes = Buffer.alloc(HEAD + messages);
    this.file = openSync(`seen.${process.pid}`, "w");
    this.last = 0;
    this.writing = setInterval(() => this.write(), WRITE_EACH_MS);
  }

  note(body) {
    const place = HEAD + Number(body.toString("latin1", 0, 10).slice(0, 10));
    this.bytes[place] = Math.min(this.bytes[place] + 1, 255);
    this.last = Date.now();
  }

  write() {
    this.bytes.writeBigUInt64LE(BigInt(this.last) * 1000n);
    writeSync(this.file, this.bytes, 0, this.bytes.length, 0);
  }

  close() {
    clearInterval(this.writing);
    this.write();
  }
}

// Begins with the number of the message.
export const body = (number, bytes) => String(number).padStart(10, "0").padEnd(bytes, "x");

export const ready = () => console.log("ready");

// Until the benchmark starts its clock: it makes a file.
export async function waitForGo() {
  ready();
  const until = Date.now() + GO_WITHIN_MS;
  while (!existsSync("go")) {
    if (Date.now() > until) throw new Error("nobody said go");
    await pause(2);
  }
}
