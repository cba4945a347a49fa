import { FlowClient } from '/static/flow-client.js';

const FLOW = 'user-onboarding';

/** One device of the signed-in user. */
export function openDevice(device, token, on) {
  const client = new FlowClient(location.origin, {
    token,
    device,
  });

  // The state now, then every change in order,
  // whichever device made it.
  client.follow(FLOW, on.state);

  // Who else has this state open.
  client.onPresence(FLOW, ({ clients }) => {
    on.devices(clients);
  });
  client.on('error', on.error);

  return {
    start: () => client.start(FLOW),
    run: (transition, payload) =>
      client.transition(FLOW, transition, { payload }),
    restart: () => client.reset(FLOW),
    close: () => client.close(),
  };
}
