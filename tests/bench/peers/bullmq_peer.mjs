// BullMQ over Redis: `bullmq_peer.mjs PACKAGES send URL FIRST MESSAGES BYTES` and `bullmq_peer.mjs PACKAGES consume URL MESSAGES`.
//
// Jobs are added in bulk, several calls at a time, each answered by Redis; removed once they are done.

import { createRequire } from "node:module";
import { Seen, body, ready, waitForGo } from "./seen.mjs";

const [packages, work, url, ...rest] = process.argv.slice(2);
const { Queue, Worker } = createRequire(`${packages}/`)("bullmq");
const numbers = rest.map(Number);
const QUEUE = "bench";
const BULK = 500;
const CALLS = 4;
const CONCURRENCY = 100;
const { hostname: host, port } = new URL(url);
const connection = { host, port: Number(port), maxRetriesPerRequest: null };

async function consume(messages) {
  const seen = new Seen(messages);
  const options = { connection, concurrency: CONCURRENCY, removeOnComplete: { count: 0 } };
  const worker = new Worker(QUEUE, async (job) => seen.note(Buffer.from(job.data.body)), options);
  worker.on("error", (error) => console.error(error));
  await worker.waitUntilReady();
  process.on("SIGTERM", async () => {
    await worker.close();
    seen.close();
  });
  ready();
}

async function send(first, messages, bytes) {
  const queue = new Queue(QUEUE, { connection });
  await queue.waitUntilReady();
  await waitForGo();
  let next = first;
  const call = async () => {
    while (next < first + messages) {
      const from = next;
      next = Math.min(from + BULK, first + messages);
      await queue.addBulk(Array.from({ length: next - from }, (_, n) => ({ name: "handle", data: { body: body(from + n, bytes) } })));
    }
  };
  await Promise.all(Array.from({ length: CALLS }, call));
  await queue.close();
}

await { send, consume }[work](...numbers);
