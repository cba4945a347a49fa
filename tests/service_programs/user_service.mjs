// A service on webhooks, with nothing but Node: node user_service.mjs PORT SECRET LOG FAILING
//
// It verifies each event (Standard Webhooks), appends it to LOG before it answers, and moves states on that enter its
// step. While the file FAILING exists it answers 500.
import { createHmac, timingSafeEqual } from "node:crypto";
import { appendFileSync, existsSync } from "node:fs";
import { createServer } from "node:http";

const [port, secret, log, failing] = process.argv.slice(2);
const key = Buffer.from(secret.slice("whsec_".length), "base64");

function isSigned(headers, body) {
  const { "webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": signatures } = headers;
  if (!id || !signatures || Math.abs(Date.now() / 1000 - Number(timestamp)) > 300) return false;
  const own = Buffer.from(createHmac("sha256", key).update(`${id}.${timestamp}.${body}`).digest("base64"));
  return signatures.split(" ").some((each) => {
    const given = Buffer.from(each.slice("v1,".length));
    return each.startsWith("v1,") && given.length === own.length && timingSafeEqual(given, own);
  });
}

createServer(async (request, response) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  const body = Buffer.concat(parts).toString("utf8");
  const answer = (status, value) =>
    response.writeHead(status, { "content-type": "application/json" }).end(value && JSON.stringify(value));
  if (!isSigned(request.headers, body)) return answer(401, { error: { reason: "the signature is wrong" } });
  if (existsSync(failing)) return answer(500);
  const event = JSON.parse(body);
  const { userId, revision, step, status } = event.data;
  appendFileSync(log, `${JSON.stringify({ id: event.id, type: event.type, userId, revision })}\n`);
  const isOwn = event.type === "flow.step.entered" && step === "register" && status === "active";
  return answer(200, isOwn ? { transition: "verify", payload: { verified: true } } : undefined);
}).listen(Number(port), "127.0.0.1", () => console.log("ready"));
