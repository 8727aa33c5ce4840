// Takes orders from the stock downstream, in Node (18 or newer) without a package:  node deploy/examples/handler.mjs
// Idempotency-Key and order are one line of a file that only grows, on disk before the answer: Node 18 and 20 have no
// SQLite of their own. A line that a crash cut off cannot be parsed and counts for nothing: its order comes again.
import { appendFileSync, fsyncSync, openSync, readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { text } from 'node:stream/consumers'

const parsed = (line) => { try { return JSON.parse(line) } catch { return undefined } }
const file = openSync(process.env.ORDERS ?? 'orders.jsonl', 'a+')
const taken = new Set(readFileSync(file, 'utf8').split('\n').map((line) => parsed(line)?.key))

const server = createServer({ keepAliveTimeout: 60_000 }, async (request, response) => {
  const key = request.headers['idempotency-key']
  const order = parsed(await text(request).catch(() => ''))
  if (!server.listening) response.setHeader('Connection', 'close') // we are stopping: send the next one elsewhere
  if (!key || order === undefined) return response.writeHead(400).end('no order in JSON, or no Idempotency-Key')
  if (taken.has(key)) return response.writeHead(200, { 'Countersign-Outcome': 'duplicate' }).end()
  try {
    appendFileSync(file, `\n${JSON.stringify({ key, order })}`)
    fsyncSync(file)
    taken.add(key)
    response.writeHead(200).end()
  } catch (error) { // a full disk, say: this order comes again, and the next process reads what is really on disk
    response.on('close', () => process.exit(1)).writeHead(503).end(`${error}`)
  }
})
server.listen(process.env.PORT ?? 9000, '127.0.0.1', () => console.log(`listening on 127.0.0.1:${server.address().port}`))
process.on('SIGTERM', () => { server.close(); server.closeIdleConnections() }) // what has begun is answered first
