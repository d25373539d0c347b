import anthropic

client = anthropic.Anthropic(base_url=GATEWAY, api_key="any")
hello = [{"role": "user", "content": "hello"}]


def ask(model="claude", client=client, messages=hello, **more):
    return client.messages.create(model=model, messages=messages, max_tokens=99, **more)


def read(**more):
    return list(ask(stream=True, **more))


# Whole answers and streams, also through a translation: `chat` is on the other wire.
tool = {"name": "weather", "input_schema": {"type": "object"}}
weather = [{"role": "user", "content": "the weather"}]
for model in ["claude", "chat"]:
    message = ask(model)
    assert message.content[0].text == "It is sunny in Bern." and message.stop_reason == "end_turn"
    assert message.usage.input_tokens == 30 and message.usage.cache_read_input_tokens == 10, message
    with client.messages.stream(model=model, messages=hello, max_tokens=99) as stream:
        message = stream.get_final_message()
    assert message.content[0].text == "It is sunny in Bern." and message.stop_reason == "end_turn"
    message = ask(model, messages=weather, tools=[tool])
    call = message.content[-1]
    assert message.stop_reason == "tool_use" and call.input == {"city": "Bern"}, message
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    told = [{"role": "assistant", "content": [b.model_dump(exclude_none=True) for b in message.content]}]
    turn = weather + told + [{"role": "user", "content": [result]}]
    assert ask(model, messages=turn, tools=[tool]).content[0].text == "It is sunny in Bern."
assert client.messages.count_tokens(model="claude", messages=hello).input_tokens > 0
assert [model.id for model in client.models.list()] == ["busy", "chat", "claude", "down", "tired"]

# Errors. The gateway tries twice what may mend; the SDK never repeats that.
for call in [ask, read]:
    for code, kind, status, attempts in [
        (400, anthropic.BadRequestError, 400, 1),
        (401, anthropic.InternalServerError, 502, 1),
        (500, anthropic.InternalServerError, 502, 2),
        (503, anthropic.APIStatusError, 529, 2),
        (529, anthropic.APIStatusError, 529, 2),
    ]:
        always("status", code=code)
        fails(f"{code}, {call.__name__}", call, kind, status, attempts)
    # By itself: a provider that is busy is left alone for a while.
    always("status", code=429, retry_after=0.01)
    fails("429", lambda: call(model="tired"), anthropic.RateLimitError, 429, 2)
    always("stall_before_first_byte")
    fails("stalled", call, anthropic.APIStatusError, 504, 2)
    always("cut_stream", after_chunks=1)
    fails("cut at its beginning", call, anthropic.InternalServerError, 502, 2)
    faults()
    fails("no model", lambda: call(model="none"), anthropic.NotFoundError, 404, 0)
    fails("no request", lambda: call(messages=[]), anthropic.BadRequestError, 400, 0)
    poor = {"x-steadfast-tenant": "poor"}
    error = fails("no money", lambda: call(extra_headers=poor), anthropic.APIStatusError, 402, 0)
    assert error.body["error"]["type"] == "billing_error", error.body
    assert error.body["error"]["budget"]["scope"] == "tenant poor", error.body
    assert "retry-after" not in error.response.headers and error.request_id

large = [{"role": "user", "content": "x" * (33 << 20)}]
fails("too large", lambda: ask(messages=large), anthropic.APIStatusError, 413, 0)

# Cut within the answer: an error, after what had come, and nobody is asked once more.
for kind in ["cut_stream", "error_in_stream"]:
    always(kind, after_chunks=4)
    seen = []

    def cut():
        for event in ask(stream=True):
            seen.append(event.type)

    fails(kind, cut, anthropic.APIStatusError, 200, 1)
    assert "content_block_delta" in seen, seen

faults()
print("all is as said")
