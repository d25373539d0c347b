import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({ baseURL: gateway, apiKey: "any" });
const ask = (more, options) =>
  client.messages.create({ model: "claude", messages: hello, max_tokens: 99, ...more }, options);
const read = async (more, options) => all(await ask({ ...more, stream: true }, options));

const tools = [{ name: "weather", input_schema: { type: "object" } }];
for (const model of ["claude", "chat"]) {
  assert.equal((await ask({ model })).content[0].text, "It is sunny in Bern.");
  const whole = await client.messages.stream({ model, messages: hello, max_tokens: 99 }).finalMessage();
  assert.equal(whole.content[0].text, "It is sunny in Bern.");
  const { content } = await ask({ model, messages: weather, tools });
  const result = { type: "tool_result", tool_use_id: content.at(-1).id, content: "sunny" };
  const turn = [...weather, { role: "assistant", content }, { role: "user", content: [result] }];
  assert.equal((await ask({ model, tools, messages: turn })).content[0].text, "It is sunny in Bern.");
}
assert.ok((await client.messages.countTokens({ model: "claude", messages: hello })).input_tokens > 0);

for (const call of [ask, read]) {
  for (const [code, status, attempts] of [[400, 400, 1], [401, 502, 1], [500, 502, 2], [529, 529, 2]]) {
    await always("status", { code });
    await fails(`${code}`, call, status, attempts);
  }
  await always("status", { code: 429, retry_after: 0.01 });
  await fails("429", () => call({ model: "tired" }), 429, 2);
  await faults();
  await fails("no model", () => call({ model: "none" }), 404, 0);
  const poor = { headers: { "x-steadfast-tenant": "poor" } };
  const error = await fails("no money", () => call({}, poor), 402, 0);
  assert.equal(error.error.error.type, "billing_error");
}

for (const kind of ["cut_stream", "error_in_stream"]) {
  await always(kind, { after_chunks: 4 });
  const seen = [];
  const cut = async () => {
    for await (const event of await ask({ stream: true })) seen.push(event.type);
  };
  await fails(kind, cut, undefined, 1);
  assert.ok(seen.includes("content_block_delta"), "content came first");
}
console.log("all is as said");
