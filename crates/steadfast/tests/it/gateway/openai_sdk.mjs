import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${gateway}/v1`, apiKey: "any" });
const ask = (more, options) =>
  client.chat.completions.create({ model: "chat", messages: hello, max_tokens: 99, ...more }, options);
const read = async (more, options) => all(await ask({ ...more, stream: true }, options));

assert.equal((await ask()).choices[0].message.content, "It is sunny in Bern.");
const chunks = await read();
assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join(""), "It is sunny in Bern.");
const counted = await read({ stream_options: { include_usage: true } });
assert.equal(counted.at(-1).usage.prompt_tokens, 40);
const response = await client.responses.create({ model: "chat", input: "hello" });
assert.equal(response.output_text, "It is sunny in Bern.");

const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object" } } }];
for (const model of ["chat", "claude"]) {
  const { message } = (await ask({ model, messages: weather, tools })).choices[0];
  const result = { role: "tool", tool_call_id: message.tool_calls[0].id, content: "sunny" };
  const answer = await ask({ model, tools, messages: [...weather, message, result] });
  assert.equal(answer.choices[0].message.content, "It is sunny in Bern.");
}

for (const call of [ask, read]) {
  for (const [code, status, attempts] of [[400, 400, 1], [401, 502, 1], [500, 502, 2], [503, 503, 2]]) {
    await always("status", { code });
    await fails(`${code}`, call, status, attempts);
  }
  await always("status", { code: 429, retry_after: 0.01 });
  await fails("429", () => call({ model: "busy" }), 429, 2);
  await faults();
  await fails("no model", () => call({ model: "none" }), 404, 0);
  const poor = { headers: { "x-steadfast-tenant": "poor" } };
  const error = await fails("no money", () => call({}, poor), 402, 0);
  assert.equal(error.code, "budget_exceeded");
}

for (const kind of ["cut_stream", "error_in_stream"]) {
  await always(kind, { after_chunks: 3 });
  const seen = [];
  const cut = async () => {
    for await (const chunk of await ask({ stream: true })) seen.push(chunk);
  };
  await fails(kind, cut, undefined, 1);
  assert.ok(seen.length > 0, "content came first");
}
console.log("all is as said");
