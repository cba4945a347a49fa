// Many clients in one process, for tests under load: node swarm.mjs.
//
// Its first line on standard input is JSON: {"url": …, "flow": …, "tokens": {user: token}, "clients": N};
// `url` may be a list, and N clients (one for each user by default) are spread over the users and the
// addresses in turn. It prints {"level": N} when all of them have been shown their user's state.
//
// Then a line `report` prints one line, {"clients": […], "cpu": seconds}, and `end`, or the end of the input,
// closes all. Of each client the report has its `user`, what it `held` (epoch, revision, step; null without a
// state), how many states were `shown` to it, whether one of them `fell` behind the one before, whether it is
// `level`, its `stats`, and the `error` that its following ended with.
import { createInterface } from 'node:readline';
import { io } from 'socket.io-client';
import { FlowClient } from '../../app/web/client/flow-client.js';

class Member {
  #client;
  #following;
  #user;
  #shown = 0;
  #fell = false;
  #last = undefined;
  #error = null;

  constructor(url, user, token, flow) {
    this.#user = user;
    this.#client = new FlowClient(url, { token, io, device: `swarm of ${user}`.slice(0, 64) });
    this.#following = this.#client.follow(flow);
    this.ready = new Promise((resolve) => this.#read(resolve));
  }

  async #read(ready) {
    try {
      for await (const state of this.#following) {
        this.#shown += 1;
        if (state) {
          this.#fell ||= this.#last !== undefined && !isAfter(state, this.#last);
          this.#last = state;
        }
        ready();
      }
    } catch (error) {
      this.#error = String(error);
      ready();
    }
  }

  report() {
    const { state, level } = this.#following;
    return {
      user: this.#user,
      held: state ? { epoch: state.epoch, revision: state.revision, step: state.step } : null,
      shown: this.#shown,
      fell: this.#fell,
      level,
      stats: this.#client.stats,
      error: this.#error,
    };
  }

  close() {
    this.#client.close();
  }
}

function isAfter(state, last) {
  return state.epoch === last.epoch ? state.revision > last.revision : state.epoch > last.epoch;
}

function membersOf({ url, flow, tokens, clients }) {
  const urls = [url].flat();
  const users = Object.entries(tokens);
  return Array.from({ length: clients ?? users.length }, (_, n) => {
    const [user, token] = users[n % users.length];
    return new Member(urls[n % urls.length], user, token, flow);
  });
}

function print(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const members = membersOf(JSON.parse((await lines.next()).value));
await Promise.all(members.map(({ ready }) => ready));
print({ level: members.length });
for await (const word of lines) {
  if (word !== 'report') break;
  const { user, system } = process.cpuUsage();
  print({ clients: members.map((member) => member.report()), cpu: (user + system) / 1e6 });
}
for (const member of members) member.close();
process.stdin.destroy();
