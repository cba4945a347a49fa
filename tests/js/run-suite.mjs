// The suite in Node, against the service at FLOW_URL; TOKEN_URL makes tokens. Prints the results as JSON.
import { io } from 'socket.io-client';
import { FlowClient } from '../../app/web/client/flow-client.js';
import { minter } from './minter.mjs';
import { run } from './suite.mjs';

const { FLOW_URL: url, TOKEN_URL: tokens, ONLY: only } = process.env;
console.log(JSON.stringify(await run({ url, mint: minter(tokens), FlowClient, io, only })));
