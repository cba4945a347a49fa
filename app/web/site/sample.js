import { FlowClient } from '/static/flow-client.js';

const client = new FlowClient(location.origin, {
  token: fetchToken,
});

client.follow('user-onboarding', (state) => render(state));
await client.start('user-onboarding');
await client.transition('user-onboarding', 'start', {
  payload: { name: 'Ada' },
});
