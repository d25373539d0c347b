import openai

client = openai.OpenAI(base_url=GATEWAY + "/v1", api_key="any")
hello = [{"role": "user", "content": "hello"}]
chat = lambda model="chat", client=client, **more: client.chat.completions.create(
    model=model, messages=more.pop("messages", hello), **more
)

# Whole answers.
assert chat().choices[0].message.content == "It is sunny in Bern."
assert client.responses.create(model="chat", input="hello").output_text == "It is sunny in Bern."
assert len(client.embeddings.create(model="chat", input=["a", "b"]).data) == 2
assert [model.id for model in client.models.list()] == ["busy", "chat", "claude", "down", "tired"]

# Streams: the usage is there for whoever asks and for nobody else.
chunks = list(chat(stream=True))
said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
assert said == "It is sunny in Bern.", said
assert all(chunk.choices and chunk.usage is None for chunk in chunks)
last = list(chat(stream=True, stream_options={"include_usage": True}))[-1]
assert last.choices == [] and last.usage.prompt_tokens == 40, last
events = [event.type for event in client.responses.create(model="chat", input="hello", stream=True)]
assert events[-1] == "response.completed", events

# Tools, also through a translation: the model answers on the other wire.
tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
weather = [{"role": "user", "content": "the weather"}]
for model in ["chat", "claude"]:
    message = chat(model=model, messages=weather, tools=[tool], max_tokens=99).choices[0].message
    call = message.tool_calls[0]
    assert call.function.name == "weather" and "Bern" in call.function.arguments, message
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    turn = weather + [message.model_dump(exclude_none=True), result]
    answer = chat(model=model, messages=turn, tools=[tool], max_tokens=99)
    assert answer.choices[0].message.content == "It is sunny in Bern.", answer
    deltas = list(chat(model=model, messages=weather, tools=[tool], max_tokens=99, stream=True))
    assert deltas[-1].choices[0].finish_reason == "tool_calls", deltas[-1]

# Errors. The gateway tries twice what may mend; the SDK never repeats that.
for streamed in [False, True]:
    ask = lambda **more: list(chat(stream=True, **more)) if streamed else chat(**more)
    for code, kind, status, attempts in [
        (400, openai.BadRequestError, 400, 1),
        (401, openai.InternalServerError, 502, 1),
        (500, openai.InternalServerError, 502, 2),
        (503, openai.InternalServerError, 503, 2),
        (529, openai.InternalServerError, 503, 2),
    ]:
        always("status", code=code)
        fails(f"{code}, streamed {streamed}", ask, kind, status, attempts)
    # By itself: a provider that is busy is left alone for a while.
    always("status", code=429, retry_after=0.01)
    fails("429", lambda: ask(model="busy"), openai.RateLimitError, 429, 2)
    always("stall_before_first_byte")
    fails("stalled", ask, openai.InternalServerError, 504, 2)
    always("cut_stream", after_chunks=1)
    fails("cut at its beginning", ask, openai.InternalServerError, 502, 2)
    always("malformed_json")
    fails("garbled", ask, openai.InternalServerError, 502, 2)
    faults()
    missing = lambda: ask(model="none")
    fails("no model", missing, openai.NotFoundError, 404, 0, ["busy, chat, claude"])
    fails("no request", lambda: ask(messages=[]), openai.BadRequestError, 400, 0)
    poor = {"x-steadfast-tenant": "poor"}
    error = fails("no money", lambda: ask(extra_headers=poor), openai.APIStatusError, 402, 0)
    assert error.code == "budget_exceeded" and error.body["budget"]["limit"] == "10", error.body
    assert "retry-after" not in error.response.headers

# The breaker opens with the first failure; then nobody is asked.
once = client.with_options(max_retries=0)
always("status", code=500)
fails("the first failure", lambda: chat("down"), openai.InternalServerError, 502, 1)
error = fails("open", lambda: chat("down", once), openai.InternalServerError, 503, 0)
assert error.code == "circuit_open" and int(error.response.headers["retry-after-ms"]) > 0

# Cut within the answer: an error, after what had come, and nobody is asked once more.
for kind in ["cut_stream", "error_in_stream"]:
    always(kind, after_chunks=3)
    seen = []

    def read():
        for chunk in chat(stream=True):
            seen.append(chunk)

    fails(kind, read, openai.APIError, None, 1)
    assert seen, "content came first"

# A caller that goes in the middle: the next one is served.
faults()
with chat(stream=True) as stream:
    next(iter(stream))
assert chat().choices
print("all is as said")
