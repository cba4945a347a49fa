// The entry of /static/flow-client.js: flow-client with socket.io-client built in, so that a page needs one import.
import { io } from 'socket.io-client';
import { FlowClient as Client } from './flow-client.js';

export { FlowError, Following } from './flow-client.js';

export class FlowClient extends Client {
  constructor(url, options) {
    super(url, { ...options, io: options.io ?? io });
  }
}
