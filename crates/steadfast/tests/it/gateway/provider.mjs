// What both scripts need: the provider behind the gateway, its faults and how often it is asked.
import assert from "node:assert/strict";

const [gateway, provider] = process.argv.slice(-2);
const hello = [{ role: "user", content: "hello" }];
const weather = [{ role: "user", content: "the weather" }];

const requests = async () => (await (await fetch(`${provider}/sim`)).json()).requests;
const faults = async (...rules) => {
  const answer = await fetch(`${provider}/sim/faults`, { method: "POST", body: JSON.stringify(rules) });
  assert.equal(answer.status, 200);
};
const always = (kind, more = {}) => faults({ every: 1, kind, ...more });
const all = async (stream) => {
  const seen = [];
  for await (const event of stream) seen.push(event);
  return seen;
};

// Expects an error with this status, after so many requests to the provider.
const fails = async (what, call, status, attempts) => {
  const before = await requests();
  const error = await call().then(() => assert.fail(`${what}: no error`), (error) => error);
  const asked = (await requests()) - before;
  assert.equal(error.status, status, `${what}: ${error}`);
  assert.equal(asked, attempts, `${what}: ${error}`);
  return error;
};

