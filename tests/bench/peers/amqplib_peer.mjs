// amqplib: `amqplib_peer.mjs PACKAGES send URL FIRST MESSAGES BYTES` and `amqplib_peer.mjs PACKAGES consume URL MESSAGES`.
//
// Quorum queue, persistent messages, a confirm channel with a window of publishes, each delivery acked after it was handled.

import { createRequire } from "node:module";
import { Seen, body, ready, waitForGo } from "./seen.mjs";

const [packages, work, url, ...rest] = process.argv.slice(2);
const { connect } = createRequire(`${packages}/`)("amqplib");
const numbers = rest.map(Number);
const QUEUE = "bench.amqplib";
const WINDOW = 1_000;
const PREFETCH = 1_000;
const durable = { durable: true, arguments: { "x-queue-type": "quorum" } };

async function consume(messages) {
  const seen = new Seen(messages);
  const connection = await connect(url);
  const channel = await connection.createChannel();
  await channel.assertQueue(QUEUE, durable);
  await channel.prefetch(PREFETCH);
  await channel.consume(QUEUE, (delivery) => {
    seen.note(delivery.content);
    channel.ack(delivery);
  });
  process.on("SIGTERM", async () => {
    await channel.close();
    await connection.close();
    seen.close();
  });
  ready();
}

async function send(first, messages, bytes) {
  const connection = await connect(url);
  const channel = await connection.createConfirmChannel();
  await channel.assertQueue(QUEUE, durable);
  await waitForGo();
  let next = first;
  await new Promise((resolve, reject) => {
    let open = 0;
    let filling = false;
    const confirmed = (refused) => {
      if (refused) return reject(refused);
      open -= 1;
      if (!filling) fill();
    };
    const fill = () => {
      filling = true;
      while (open < WINDOW && next < first + messages) {
        open += 1;
        channel.sendToQueue(QUEUE, Buffer.from(body(next, bytes)), { persistent: true }, confirmed);
        next += 1;
      }
      filling = false;
      if (open === 0) resolve();
    };
    fill();
  });
  await channel.close();
  await connection.close();
}

await { send, consume }[work](...numbers);
