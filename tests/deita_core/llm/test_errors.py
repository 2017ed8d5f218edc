from email.utils import formatdate
from importlib import import_module
from time import time

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deita_core.errors import LLMError
from deita_core.llm.errors import (
    FatalEndpointError,
    PermanentRequestError,
    RetryableError,
    UnsupportedParameterError,
    error_in_reply,
    error_of,
    quoted,
    retry_after,
    said_by,
)

KEY = "sk-0123456789-very-secret"
WIRE = {"model": "m", "messages": [], "temperature": 0.7, "seed": 0, "max_tokens": 9, "response_format": {}}


@pytest.fixture(scope="module")
def trouble():
    """Makes what error_of() makes of a reply, by way of the library's own reading of it."""
    http = import_module(openai.DefaultHttpxClient.__base__.__module__.split(".")[0])
    client = openai.OpenAI(api_key=KEY, base_url="http://127.0.0.1:1")
    request = http.Request("POST", "http://127.0.0.1:1/chat/completions")

    def make(status, body, headers=None, wire=WIRE):
        kind = {"content": body} if isinstance(body, bytes) else {"json": body}
        reply = http.Response(status, headers=headers, request=request, **kind)
        error = client._make_status_error_from_response(reply)
        return error_of(status, wire, said_by(error, KEY), reply.headers)

    return make


def error(message, code=None, param=None):
    return {"error": {"message": message, "type": "x", "code": code, "param": param}}


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        (error("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."), "max_tokens"),
        (error("Unsupported value: only the default (1) is supported.", param="temperature"), "temperature"),
        (error("Unrecognized request argument supplied: seed"), "seed"),
        (error("'response_format.type' must be 'json_schema' or 'text'"), "response_format"),
        (error("This model does not support JSON mode.", param="response_format"), "response_format"),
        (error("json_schema is not supported by this model"), "response_format"),
        ({"object": "error", "message": "seed is not supported", "code": 400}, "seed"),
        ({"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}, "seed"),
        ({"error": "Input validation error: `seed` must be positive", "error_type": "validation"}, "seed"),
        (b"temperature: unknown field", "temperature"),
    ],
)
@pytest.mark.parametrize("status", [400, 422])
def test_a_parameter_is_named_in_many_ways(trouble, status, body, parameter):
    found = trouble(status, body)
    assert isinstance(found, UnsupportedParameterError) and found.parameter == parameter
    without = {name: value for name, value in WIRE.items() if name != parameter}
    assert not isinstance(trouble(status, body, wire=without), UnsupportedParameterError)


@pytest.mark.parametrize(
    "body",
    [
        error("This model's maximum context length is 8192 tokens.", "context_length_exceeded"),
        error("This model's maximum context length is 8192 tokens, and your messages resulted in 9000."),
        error("The input is longer than the context window of the model."),
        {"object": "error", "message": "'max_tokens' is too large: 9; the maximum context length is 8.", "code": 400},
        {"error": {"message": "Requested tokens (600) exceed context size of 512", "code": 400}},
        {"error": "the input is longer than the context size"},
    ],
)
def test_too_long_is_the_requests_own_and_lasting(trouble, body):
    found = trouble(400, body)
    assert isinstance(found, PermanentRequestError) and (found.reason, found.lasting) == ("too_long", True)


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 520, 529])
@pytest.mark.parametrize(
    "body", [b"", b"<html>busy</html>", error("busy"), {"detail": "busy"}, b"[]", b'"busy"', b"null"]
)
def test_what_passes_passes_whatever_stands_in_the_body(trouble, status, body):
    found = trouble(status, body, {"Retry-After": "2"})
    assert isinstance(found, RetryableError) and found.wait == 2
    assert trouble(status, body).wait is None


@pytest.mark.parametrize("status", [401, 402, 403, 404, 405, 410])
@pytest.mark.parametrize("body", [b"", b"<html>\nno</html>", error(f"not with {KEY}"), {"detail": f"{KEY}!"}, b"[]"])
def test_what_lasts_ends_everything_in_one_sentence_without_the_key(trouble, status, body):
    found = trouble(status, body)
    assert isinstance(found, FatalEndpointError) and str(status) in str(found)
    assert KEY not in f"{found} {found!r}" and "\n" not in str(found) and len(str(found)) < 400


def test_a_quota_ends_everything_however_it_is_worded(trouble):
    assert isinstance(trouble(429, error("You exceeded your current quota.", "insufficient_quota")), FatalEndpointError)
    assert isinstance(trouble(429, error("Rate limit reached.", "rate_limit_exceeded")), RetryableError)
    assert isinstance(trouble(429, error("Rate limit reached."), {"Retry-After": "301"}), FatalEndpointError)
    assert isinstance(trouble(429, error("Rate limit reached."), {"Retry-After": "inf"}), FatalEndpointError)
    assert trouble(503, error("busy"), {"Retry-After": "100000"}).wait is None


EXHAUSTED = [
    (429, error("You exceeded your current quota, please check your plan and billing details.", "insufficient_quota")),
    (429, error("You have run out of credits or reached your monthly spending limit.")),
    (429, {"error": {"message": "Your account is suspended, check your plan and billing details",
                     "type": "exceeded_current_quota_error"}}),
    (402, error("Insufficient Balance")),
    (402, b""),
    (400, {"type": "error", "error": {"type": "invalid_request_error", "message": "Your credit balance is too low."}}),
]  # fmt: skip
TOO_FAST = [
    (429, error("Rate limit reached for gpt-4o on tokens per min (TPM): Limit 10000. Please try again in 6ms. You can "
                "increase your rate limit by adding a payment method at https://x/account/billing.", "tokens")),
    (429, error("You exceeded your current quota, please check your plan and billing details. Quota exceeded for "
                "metric: requests, limit: 15. Please retry in 34.07s.", "RESOURCE_EXHAUSTED")),
    (429, error("Requests have exceeded the call rate limit of your pricing tier. Please retry after 6 seconds.")),
    (429, error("busy")),
    (429, b""),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body"), EXHAUSTED)
def test_credit_that_is_used_up_ends_everything_with_the_endpoints_words(trouble, status, body):
    found = trouble(status, body)
    assert isinstance(found, FatalEndpointError) and "credit or quota is used up" in str(found)
    assert not isinstance(body, dict) or body["error"]["message"] in str(found)


@pytest.mark.parametrize(("status", "body"), TOO_FAST)
def test_a_limit_for_some_time_is_waited_for_though_it_speaks_of_billing(trouble, status, body):
    assert isinstance(trouble(status, body), RetryableError)


def test_a_prompt_on_credit_that_is_refused_does_not_end_everything(trouble):
    found = trouble(400, error("Invalid input: 'What is the balance of my credit card, and is the payment due?'"))
    assert isinstance(found, PermanentRequestError) and found.reason == "refused_request"


@pytest.mark.parametrize("status", [400, 403, 404, 405, 413, 429, 500, 503])
def test_what_an_endpoint_says_is_told_without_the_key(trouble, status):
    found = trouble(status, error(f"Ask Mary, not {KEY}."))
    assert "Ask Mary, not ***." in str(found)


def test_a_page_of_html_is_told_by_its_words(trouble):
    page = b"<html><head><title>502</title><style>a {}</style></head><body><h1>Bad\ngateway</h1></body></html>"
    assert "(Bad gateway)" in str(trouble(405, page)) and "502: Bad gateway" in str(trouble(502, page))


@pytest.mark.parametrize("status", [500, 501, 503])
def test_an_endpoint_that_cannot_stream_is_asked_for_whole_answers(trouble, status):
    wire = {**WIRE, "stream": True}
    found = trouble(status, error("Streaming is not implemented."), wire=wire)
    assert isinstance(found, UnsupportedParameterError) and found.parameter == "stream"
    assert isinstance(trouble(status, error("Streaming is not implemented.")), RetryableError)


REPLIES = [
    ({"error": {"message": "Provider returned error", "code": 502}}, RetryableError),
    ({"error": {"message": "Rate limited", "code": 429}}, RetryableError),
    ({"error": {"message": "Slow down", "code": "rate_limit_exceeded"}}, RetryableError),
    ({"error": "the model is loading"}, RetryableError),
    ({"detail": "the model is loading"}, RetryableError),
    ({"choices": [{"message": None, "error": {"message": "Overloaded", "code": 503}}]}, RetryableError),
    ({"error": {"message": "Insufficient credits", "code": 402}}, FatalEndpointError),
    ({"error": {"message": "no", "code": "insufficient_quota"}}, FatalEndpointError),
    ({"error": "Your credits are used up"}, FatalEndpointError),
    ({"error": {"message": "no", "code": "invalid_api_key"}}, FatalEndpointError),
    ({"error": {"message": "no", "type": "model_not_found", "code": None}}, FatalEndpointError),
    ({"error": {"message": "long", "code": "context_length_exceeded"}}, PermanentRequestError),
]


@pytest.mark.parametrize(("reply", "kind"), REPLIES)
def test_an_error_in_place_of_an_answer_means_what_its_status_would(reply, kind):
    assert type(error_in_reply(reply, WIRE, KEY)) is kind


def test_a_reply_without_an_error_is_none():
    for reply in ({"choices": []}, {"error": None, "choices": []}, [], None, "error"):
        assert error_in_reply(reply, WIRE, KEY) is None


def test_the_words_of_an_error_in_a_reply_are_told_without_the_key():
    found = error_in_reply({"error": {"message": f"Lost the worker of {KEY}."}}, WIRE, KEY)
    assert "Lost the worker of ***." in str(found)


def test_a_filter_of_prompts_is_the_requests_own(trouble):
    found = trouble(400, error("The prompt was filtered.", "content_filter"))
    assert isinstance(found, PermanentRequestError) and (found.reason, found.lasting) == ("content_filter", True)


def test_troubles_of_one_request_are_not_the_end_of_everything():
    assert not issubclass(PermanentRequestError, LLMError) and not issubclass(RetryableError, LLMError)


@pytest.mark.parametrize("length", range(150, 210, 7))
def test_a_key_at_the_place_where_a_quotation_ends_is_not_shown_in_part(length):
    said = quoted(Exception(f"{'x' * length} {KEY} may not do this"), KEY)
    assert "0123" not in said and len(said) <= 203


def test_a_key_over_two_lines_or_escaped_is_not_shown():
    for key in ("sk-first\nsk-second", "sk\\first", "sk-“first”"):
        assert "first" not in quoted(Exception(f"Illegal header value {f'Bearer {key}'.encode()!r}"), key)
        assert "first" not in quoted(Exception(f"no such key: {key}"), key)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0), ("1.5", 1.5), (" 20 ", 20), ("-3", 0), ("soon", None), ("", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0)],
)
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert retry_after({"retry-after": value}) == seconds
    assert retry_after({}) is None


def test_retry_after_a_date_to_come_is_the_time_until_then():
    assert 25 < retry_after({"retry-after": formatdate(time() + 30, usegmt=True)}) <= 30
    assert 25 < retry_after({"retry-after": formatdate(time() + 30)}) <= 30


@given(st.text(st.characters(max_codepoint=255)))
def test_no_retry_after_is_too_odd(value):
    found = retry_after({"retry-after": value})
    assert found is None or found >= 0
