// Envelope tokens as the base system's documented format says, in JavaScript itself, with Node's own Ed25519.
// Takes one JSON request a line, answers one token a line.
//   {"type", "content", "dt", "ttl", "seed": hex of the private key}
import { createPrivateKey, sign } from 'node:crypto';
import { createInterface } from 'node:readline';

const PKCS8 = Buffer.from('302e020100300506032b657004220420', 'hex');

// RFC 8785: names in the order of their UTF-16 code units, values as JSON.stringify writes them.
const canonical = (value) => {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`;
  if (value === null || typeof value !== 'object') return JSON.stringify(value);
  const names = Object.keys(value).sort();
  return `{${names.map((name) => `${JSON.stringify(name)}:${canonical(value[name])}`).join(',')}}`;
};

const tokenOf = ({ type, content, dt, ttl, seed }) => {
  const message = Buffer.from(JSON.stringify(content), 'utf8').toString('base64');
  const envelope = { t: type, msg: message, dt, ttl };
  const key = createPrivateKey({
    key: Buffer.concat([PKCS8, Buffer.from(seed, 'hex')]),
    format: 'der',
    type: 'pkcs8',
  });
  envelope.sig = sign(null, Buffer.from(canonical(envelope), 'utf8'), key).toString('base64url');
  return Buffer.from(JSON.stringify(envelope), 'utf8').toString('base64url');
};

for await (const line of createInterface({ input: process.stdin })) {
  console.log(tokenOf(JSON.parse(line)));
}
